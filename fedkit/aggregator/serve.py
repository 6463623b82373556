"""A run that is served to devices: uvicorn in a thread, the training loop in the main one."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedkit.aggregator.app import App
from fedkit.aggregator.connections import Places, room
from fedkit.aggregator.desk import Desk, opened
from fedkit.aggregator.enrol import Enrolment
from fedkit.aggregator.federation import EdgeFederation
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.leases import LEASE
from fedkit.aggregator.listener import Listener
from fedkit.aggregator.logs import logged
from fedkit.aggregator.meters import Meters
from fedkit.aggregator.persevering import persevering
from fedkit.aggregator.progress import Progress
from fedkit.aggregator.registry import Registry, Roster
from fedkit.aggregator.tls import demand_loopback
from fedkit.config import Scenario
from fedkit.errors import ConfigError
from fedkit.launch import Built, build, run_built
from fedkit.messages import ClientId, Metrics
from fedkit.rounds import Result
from fedkit.secagg.identity import SigningKey, Trust, fingerprint
from fedkit.tensors import Tensors
from fedkit.trainer import Trainer, Workload

log = logging.getLogger("fedkit")

GRACE = 20.0
"""Seconds that a finished run waits for clients to fetch the last verdicts."""


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


class Deployed:
    """A workload whose clients are the devices: the server's own copy may hold no data of theirs.

    room: places for devices, where they come one by one. enrolled_by: what stands for their names then,
    since a run that is continued has the same.
    """

    def __init__(
        self, workload: Workload, clients: Sequence[ClientId], room: int = 0, enrolled_by: str = ""
    ) -> None:
        free = [f"free place {number}" for number in range(len(clients), room)]
        self._workload, self._clients = workload, (*sorted(clients), *free)
        self.enrolled_by = enrolled_by

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_workload"], name)

    def init(self, seed: int) -> Tensors:
        """The initial model."""
        return self._workload.init(seed)

    def clients(self) -> Sequence[ClientId]:
        """The devices, and a name for each place that is free."""
        return self._clients

    def trainer(self, client: ClientId) -> Trainer:
        """Nobody trains on a server."""
        return self._workload.trainer(client)

    def evaluate(self, model: Tensors) -> Metrics:
        """Metrics on the server's own data."""
        return self._workload.evaluate(model)


def serve(
    scenario: Scenario,
    service: Service,
    directory: Path,
    *,
    out: Path,
    resume: bool = False,
    observers: Sequence[object] = (),
    listening: Callable[[str], None] | None = None,
) -> Result:
    """Run a scenario over the network, with a journal in `directory`; restarted, it continues.

    out: the run folder. listening: told of the address once it is open. Of the scenario, [links], [devices]
    and [federation] are those of simulations.
    While the disk cannot be written it waits. Raises what `fedkit.run` raises, ConfigError before round 0.
    """
    _demand_own_key(service)
    if service.tls is None:
        demand_loopback(service.host)
    built = build(scenario)
    most = _most(service, built)
    with ExitStack() as stack:
        stack.enter_context(logged(service.log))
        journal = Journal(directory)
        stack.callback(journal.close)
        if journal.meta("job_id") is not None and not resume:
            raise ConfigError(
                f"{directory} is the journal of a run whose folder {out} is gone: put it back, or give "
                "another directory for a new run"
            )
        registry = _registry(service, journal, most)
        progress, meters, places = Progress(), Meters(), Places(room())
        app = App(journal, registry, service.lease, meters=meters, places=places)
        if service.operator is not None:
            host, port, home = service.operator
            desk = Desk(journal, registry, meters, progress, places, home)
            stack.enter_context(opened(desk, host, port, home))
        where = (service.host, service.port, service.tls)
        server = stack.enter_context(Listener(app.asgi, *where, drain=app.drain, places=places))
        if listening is not None:
            listening(server.url)
        _await_devices(journal, registry, built, most)
        by = "of a CA" if service.trust.kind == "ca" else ""  # not which: another may take over
        workload = Deployed(built.workload, registry.known(), most, by)

        def go(resume: bool) -> Result:
            federation = _federation(journal, registry, service, built, most)
            deployed = replace(built, workload=workload, federation=federation)
            result = run_built(scenario, deployed, out=out, resume=resume, observers=(*observers, progress))
            _linger(federation)
            return result

        return persevering(go, journal, out, resume)


def _demand_own_key(service: Service) -> None:
    trust, own = service.trust, service.signer.public
    if trust.kind == "none":
        raise ConfigError("who the devices are must be known: give a roster of their keys, or a CA")
    if trust.server != own:
        raise ConfigError(
            f"the roster's server is {fingerprint(trust.server)}, but this aggregator's key is "
            f'{fingerprint(own)}: write server = "{own.hex()}" into the roster, on every device too'
        )


def _most(service: Service, built: Built) -> int:
    """As many devices as there may be."""
    if service.trust.kind == "roster":
        return len(service.trust.roster)
    return service.clients if service.clients is not None else len(built.workload.clients())


def _registry(service: Service, journal: Journal, room: int) -> Registry:
    trust = service.trust
    if trust.kind == "roster":
        return Roster(trust)
    return Enrolment(journal, trust, room)


def _await_devices(journal: Journal, registry: Registry, built: Built, room: int) -> None:
    """Wait until so many devices have enrolled that a round can have its quorum, however long that takes."""
    quorum, told = built.policy.quorum, -1
    need = quorum if isinstance(quorum, int) else math.ceil(quorum * room)
    while len(registry.known()) < min(max(need, 1), room):
        ticks, known = journal.ticks, len(registry.known())
        if known != told:
            log.warning("waiting for devices to enrol: %d of %d", known, need)
        told = known
        registry.clients()  # looks for answers of the CA
        journal.wait(ticks, 1.0)


def _federation(
    journal: Journal, registry: Registry, service: Service, built: Built, room: int
) -> EdgeFederation:
    cohort, over = built.policy.cohort, built.policy.over_select
    wanted = math.ceil(cohort * over) if isinstance(cohort, int) else room
    return EdgeFederation(
        journal,
        registry,
        signer=service.signer,
        wait_for=min(wanted if service.wait_for is None else service.wait_for, room),
        patience=built.policy.deadline if service.patience is None else service.patience,
    )


def _linger(federation: EdgeFederation) -> None:
    """Give clients the time to fetch the last verdicts; a later start of the same run tells the rest."""
    end = time.monotonic() + GRACE
    while federation.untold() and time.monotonic() < end:
        time.sleep(0.1)
