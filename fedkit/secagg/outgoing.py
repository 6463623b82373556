"""What the server knows of a session, and the messages that it makes of that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedkit.messages import ClientId
from fedkit.secagg.closing import Quorum, Survivors
from fedkit.secagg.frames import Flags
from fedkit.secagg.header import Header
from fedkit.secagg.messages import BOX_BYTES, Advert, Inbox, Roster, Stage
from fedkit.secagg.session import Session


@dataclass
class Board:
    """What is known, as it comes to be known. boxes: (n, k, 80) bytes, dropped when they are delivered."""

    header: Header
    opening: bytes
    adverts: dict[ClientId, Advert] = field(default_factory=dict)
    frames: dict[ClientId, bytes] = field(default_factory=dict)  # of the adverts, as a roster has them
    signatures: dict[ClientId, bytes] = field(default_factory=dict)
    session: Session = field(init=False)
    head: bytes = field(init=False)
    boxes: NDArray[np.uint8] = field(init=False)
    sharers: Flags = field(init=False)
    survivors: Flags = field(init=False)

    @property
    def roster(self) -> list[Advert]:
        """The adverts by the clients' places."""
        return [self.adverts[client] for client in self.session.clients]

    def near(self, client: ClientId) -> tuple[ClientId, ...]:
        """A client's neighbours."""
        numbers = self.session.graph[self.session.number[client]].tolist()
        names: tuple[ClientId, ...] = itemgetter(*numbers)(self.session.clients)  # there are at least two
        return names


class Outbox(Mapping[ClientId, bytes]):
    """Bodies by client, made when asked for: a roster for each of 10,000 clients would not fit in memory.

    To be used before the stage is closed.
    """

    def __init__(self, board: Board, stage: Stage, clients: Iterable[ClientId]) -> None:
        self._clients = dict.fromkeys(sorted(clients))
        self._board, self._make = board, BODY[stage]

    def __getitem__(self, client: ClientId) -> bytes:
        if client not in self._clients:
            raise KeyError(client)
        return self._make(self._board, client)

    def __iter__(self) -> Iterator[ClientId]:
        return iter(self._clients)

    def __len__(self) -> int:
        return len(self._clients)


def _opening(board: Board, _: ClientId) -> bytes:
    return board.opening


def _roster(board: Board, client: ClientId) -> bytes:
    return Roster.join(board.head, itemgetter(*board.near(client))(board.frames))


def _inbox(board: Board, client: ClientId) -> bytes:
    session, sharers = board.session, board.sharers
    own = session.number[client]
    boxes = board.boxes.reshape(-1, BOX_BYTES)
    return Inbox.join(sharers, boxes[session.routes[own][sharers[session.graph[own]]]].tobytes())


def _survivors(board: Board, _: ClientId) -> bytes:
    return Survivors(board.survivors).to_bytes()


def _last(board: Board, client: ClientId) -> bytes:
    if not board.header.agrees:
        return _survivors(board, client)
    near, signatures = board.near(client), board.signatures
    signed = np.array([peer in signatures for peer in near], np.bool_)
    return Quorum(signed, tuple(filter(None, map(signatures.get, near)))).to_bytes()


BODY: Final[Mapping[Stage, Callable[[Board, ClientId], bytes]]] = {
    Stage.advertise: _opening,
    Stage.share: _roster,
    Stage.mask: _inbox,
    Stage.agree: _survivors,
    Stage.unmask: _last,
}
