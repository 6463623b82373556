"""The nodes of a fleet: which clients each is, what it is busy with, what waits for it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fedkit import fields
from fedkit.errors import WireError, shown
from fedkit.federation import Request, Verdict
from fedkit.messages import MOST_ID_BYTES, ClientId, Key
from fedkit_clients.flower.parcel import only, unpack

log = logging.getLogger("fedkit.flower")
MOST_CLIENTS = 10_000
"""Clients that one node may be."""


@dataclass(frozen=True)
class Flight:
    """A message that is under way. told: the verdicts in it."""

    message: str
    expires: float
    keys: tuple[Key, ...] = ()
    told: dict[Key, Verdict] = field(default_factory=dict)


@dataclass
class Node:
    """One node. turn: how many messages it remembers. queue: what it is sent next."""

    id: int
    clients: tuple[ClientId, ...]
    turn: int
    queue: dict[Key, Request] = field(default_factory=dict)
    flight: Flight | None = None


class Nodes:
    """Nodes by id and by client."""

    def __init__(self) -> None:
        self._known: dict[int, Node] = {}
        self._asked: dict[int, Flight] = {}
        self._refused: set[int] = set()
        self._doubles: dict[int, int] = {}  # a node that says it is a client of the other
        self._home: dict[ClientId, int] = {}
        self._reached: set[int] = set()

    def reach(self, numbers: Iterable[int]) -> list[int]:
        """These can be reached now; who among them is still to be asked who it is."""
        self._reached = set(numbers)
        for number in self._asked.keys() - self._reached:
            del self._asked[number]
        doubles = {number for number, other in self._doubles.items() if other in self._reached}
        return sorted(self._reached - self._known.keys() - self._asked.keys() - self._refused - doubles)

    def greet(self, number: int, flight: Flight) -> None:
        """It was asked."""
        self._asked[number] = flight

    def welcome(self, number: int, blob: bytes) -> None:
        """It has said who it is. WireError: that cannot be."""
        self._asked.pop(number, None)
        turn, *names = only(unpack(blob, "hello"), "hello").fields or (None,)
        clients = tuple(fields.text(name, "client") for name in names)
        if not 0 < len(set(clients)) == len(clients) <= MOST_CLIENTS:
            raise WireError(f"a node of {len(clients)} clients, or of one twice")
        if odd := [c for c in clients if not c or not c.isprintable() or len(c.encode()) > MOST_ID_BYTES]:
            raise WireError(
                f"a client {shown(odd[0])}: an id is 1 to {MOST_ID_BYTES} bytes that can be printed"
            )
        if taken := [c for c in clients if self._home.get(c, number) in self._reached - {number}]:
            self._doubles[number] = other = self._home[taken[0]]
            log.error("node %d says that it is %r, which node %d is", number, taken[0], other)
            return
        self._known[number] = Node(number, clients, fields.integer(turn, "turn"))
        self._home |= dict.fromkeys(clients, number)

    def lose(self, number: int, for_good: bool = False) -> None:
        """It did not answer in time or in sense. It is asked again who it is, unless it is lost for good."""
        if for_good:
            self._refused.add(number)
        self._asked.pop(number, None)
        node = self._known.pop(number, None)
        for client in node.clients if node is not None else ():
            del self._home[client]

    def node(self, number: int) -> Node | None:
        """That node, if it has said who it is."""
        return self._known.get(number)

    def of(self, client: ClientId) -> Node | None:
        """The node that is this client."""
        return self._known.get(self._home.get(client, -1))

    def known(self) -> Sequence[Node]:
        """All that have said who they are."""
        return list(self._known.values())

    def clients(self) -> Sequence[ClientId]:
        """The clients of nodes that can be reached, sorted."""
        return sorted(c for node in self._known.values() if node.id in self._reached for c in node.clients)

    def flights(self) -> dict[str, tuple[int, Flight]]:
        """All messages under way, with the node each went to."""
        busy = {node.id: node.flight for node in self._known.values() if node.flight is not None}
        return {flight.message: (number, flight) for number, flight in (self._asked | busy).items()}
