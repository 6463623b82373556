"""Who the devices are: whose requests are answered, and by which key (docs/edge-protocol.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fedkit.aggregator.seats import Seats
from fedkit.messages import ClientId
from fedkit.secagg.identity import Trust


class Registry(Protocol):
    """The devices of an aggregator. It is asked from several threads."""

    @property
    def trust(self) -> Trust:
        """Whose keys are believed now, and the aggregator's own, for which requests are signed."""
        ...

    def key(self, client: ClientId) -> bytes | None:
        """The Ed25519 key that signs this client's requests; None: there is no such client."""
        ...

    def demand(self, client: ClientId) -> None:
        """Refusal 403 if a client, whose signature holds, may not ask: `revoked`, `expired`, `full`."""
        ...

    def clients(self) -> Sequence[ClientId]:
        """Who may take part now, sorted; there may be more the next time."""
        ...

    def seats(self) -> Seats:
        """Who has a place, whether it may take part now or not."""
        ...


class Roster:
    """Devices whose keys were exchanged by hand: always the same. trust: of kind `roster`."""

    def __init__(self, trust: Trust) -> None:
        self.trust, self._keys = trust, trust.roster

    def key(self, client: ClientId) -> bytes | None:
        """The client's key; None: it is not in the roster."""
        return self._keys.get(client)

    def demand(self, client: ClientId) -> None:
        """Nothing: who is in a roster may ask."""

    def clients(self) -> Sequence[ClientId]:
        """All of them, sorted."""
        return sorted(self._keys)

    def seats(self) -> Seats:
        """A place for each."""
        return Seats(len(self._keys), tuple(sorted(self._keys)))
