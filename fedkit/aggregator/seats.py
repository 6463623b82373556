"""Places for devices: who has one, who waits for one, and who has left one.

A place is taken with the first certificate and kept, also while the device is away and when its certificate
has expired: it may come back. Revocation alone makes it free, for whoever waits longest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from fedkit.messages import ClientId


@dataclass(frozen=True)
class Seats:
    """Who has a place. room: how many places there are; 0: as many as are asked for.

    held, waiting: clients in the order in which they came. left: those that were revoked.
    """

    room: int
    held: tuple[ClientId, ...]
    waiting: tuple[ClientId, ...] = ()
    left: tuple[ClientId, ...] = ()

    @property
    def free(self) -> int:
        """Places that nobody has."""
        return max(0, self.room - len(self.held))


def seated(certificates: Iterable[tuple[ClientId, str]], revoked: Collection[str], room: int) -> Seats:
    """Who has a place. certificates: client and serial, in the order in which they came.

    A client that was revoked and has joined again comes after those that came meanwhile.
    """
    rows = list(certificates)
    newest = dict(rows)
    came = dict.fromkeys(client for client, serial in rows if serial not in revoked)
    order = [client for client in came if newest[client] not in revoked]
    here = order[:room] if room else order
    left = [client for client in newest if newest[client] in revoked]
    return Seats(room, tuple(here), tuple(order[len(here) :]), tuple(left))
