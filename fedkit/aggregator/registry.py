"""Who the devices are: whose requests are answered, and by which key (docs/edge-protocol.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fedkit.aggregator.refusal import Refusal
from fedkit.messages import ClientId
from fedkit.secagg.identity import Trust


class Registry(Protocol):
    """The devices of an aggregator. It is asked from several threads."""

    @property
    def trust(self) -> Trust:
        """Whose keys are believed now, and the aggregator's own, for which requests are signed."""
        ...

    def key(self, client: ClientId) -> bytes:
        """The Ed25519 key that signs this client's requests.

        Refusal 403: `client` (unknown), `revoked`, `expired`.
        """
        ...

    def clients(self) -> Sequence[ClientId]:
        """Who may take part now, sorted; there may be more the next time."""
        ...

    def known(self) -> Sequence[ClientId]:
        """All that ever could, in the order in which they came."""
        ...


class Roster:
    """Devices whose keys were exchanged by hand: always the same. trust: of kind `roster`."""

    def __init__(self, trust: Trust) -> None:
        self.trust, self._keys = trust, trust.roster

    def key(self, client: ClientId) -> bytes:
        """The client's key. Refusal 403 `client`."""
        if client not in self._keys:
            raise Refusal(403, "client", f"client {client!r} is not in the roster")
        return self._keys[client]

    def clients(self) -> Sequence[ClientId]:
        """All of them, sorted."""
        return sorted(self._keys)

    def known(self) -> Sequence[ClientId]:
        """All of them, sorted."""
        return self.clients()
