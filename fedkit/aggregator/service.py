"""How an aggregator is served, and to whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fedkit.aggregator.enrol import Enrolment
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.leases import LEASE
from fedkit.aggregator.registry import Registry, Roster
from fedkit.errors import ConfigError
from fedkit.launch import Built
from fedkit.loopback import demand_loopback
from fedkit.secagg.identity import SigningKey, Trust, fingerprint


@dataclass(frozen=True)
class Service:
    """How a run is served.

    trust: who the clients are. signer: the aggregator's own key, trust.server. host, port: where to listen;
    port 0 takes a free one. lease: seconds until a task is offered again that was not acknowledged. wait_for:
    clients to wait for before a round; None: as many as are invited where the cohort is a count, else all.
    patience: seconds to wait for them; None: the round's deadline. tls: the folder of the signer's key; None:
    plain HTTP, to this machine only. operator: host and port of the operator's door, and the aggregator's
    folder. log: a file of JSON lines. clients: room for so many devices of a CA; None: as many as the
    workload has clients.
    """

    trust: Trust
    signer: SigningKey = field(repr=False)
    host: str = "127.0.0.1"
    port: int = 8470
    lease: float = LEASE
    wait_for: int | None = None
    patience: float | None = None
    tls: Path | None = None
    operator: tuple[str, int, Path] | None = None
    log: Path | None = None
    clients: int | None = None

    def check(self) -> None:
        """ConfigError: devices that are not known, a key that is not theirs, or plain HTTP for others."""
        trust, own = self.trust, self.signer.public
        if trust.kind == "none":
            raise ConfigError("who the devices are must be known: give a roster of their keys, or a CA")
        if trust.server != own:
            raise ConfigError(
                f"the roster's server is {fingerprint(trust.server)}, but this aggregator's key is "
                f'{fingerprint(own)}: write server = "{own.hex()}" into the roster, on every device too'
            )
        if self.tls is None:
            demand_loopback(self.host, "leave --insecure-http out")

    def most(self, built: Built) -> int:
        """As many devices as there may be."""
        if self.trust.kind == "roster":
            return len(self.trust.roster)
        return self.clients if self.clients is not None else len(built.workload.clients())

    def registry(self, journal: Journal, room: int) -> Registry:
        """The devices."""
        if self.trust.kind == "roster":
            return Roster(self.trust)
        return Enrolment(journal, self.trust, room)
