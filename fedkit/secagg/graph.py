"""Who shares with whom: the complete graph, or a union of k/2 random Hamiltonian cycles.

The seed comes from the session's header and roster, so nobody chooses the graph, and every client computes
it by itself. The cycles have no edge in common: where a new one repeats an edge, two of its clients change
places. So everyone has k neighbours exactly, and, as the drawing knows no names, those of one client are a
uniform choice of k others: what the probabilities of `parameters` are about. (A mere union leaves some of
1000 clients with 67 neighbours instead of 78, and rounds would abort more often than promised.)
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import ConfigError
from fedkit.secagg.parameters import DENSEST, MOST
from fedkit.seeds import Stream

Neighbours: TypeAlias = NDArray[np.int32]

BITS = 1 << 24  # bytes that a bit for each pair of clients may take, which is quickest to look up
MOST_SWAPS = 100  # tried for each client of a cycle; nearly always one or two do
MOST_DRAWS = 100  # of all cycles: those of small dense graphs can leave no room for the last one


def graph_seed(header: bytes, roster_root: bytes) -> bytes:
    """SHA-256(header ‖ roster root), both 32 bytes long."""
    return sha256(header + roster_root).digest()


@lru_cache(maxsize=4)
def neighbours(clients: int, degree: int, seed: bytes) -> Neighbours:
    """The neighbours of each client by number: (clients, degree), ascending, read-only.

    ConfigError: clients beyond 65,535; a degree that is not clients - 1, nor even and up to 70 % of them.
    """
    if degree == clients - 1 and 2 <= clients <= MOST:
        made = _complete(clients)
    elif 2 <= degree <= DENSEST * clients and degree % 2 == 0 and 3 <= clients <= MOST:
        made = _cycles(clients, degree, seed)
    else:
        raise ConfigError(f"no graph of {clients} clients with {degree} neighbours each")
    made.flags.writeable = False
    return made


def _complete(n: int) -> Neighbours:
    others = np.tile(np.arange(n - 1, dtype=np.int32), (n, 1))
    return others + (others >= np.arange(n)[:, None]).astype(np.int32)


def _cycles(n: int, degree: int, seed: bytes) -> Neighbours:
    random = Stream(int.from_bytes(seed[:16], "little"))
    for _ in range(MOST_DRAWS):
        found = _draw(n, degree, random)
        if found is not None:
            return found
    raise ConfigError(
        f"no graph of {n} clients with {degree} neighbours each was found: use fewer neighbours"
    )


def _draw(n: int, degree: int, random: Stream) -> Neighbours | None:
    found = np.empty((n, degree), np.int32)
    edges = _edges(found)
    for at in range(0, degree, 2):
        cycle = _new_edges_only(random.permutation(n), edges, random)
        if cycle is None:
            return None
        found[cycle, at], found[cycle, at + 1] = np.roll(cycle, 1), np.roll(cycle, -1)
        edges.add(cycle)
    found.sort(axis=1)
    return found


def _edges(found: Neighbours) -> _Edges:
    """Those of a table that is to be filled, in memory of its order."""
    n = len(found)
    return _Bits(n) if n * n // 8 <= max(BITS, found.nbytes) else _Rows(found)


class _Edges(Protocol):
    """The edges of earlier cycles between n clients."""

    n: int

    def add(self, cycle: NDArray[np.int64]) -> None:
        """All edges of a cycle."""

    def repeated(self, cycle: NDArray[np.int64]) -> list[int]:
        """Where in the cycle an edge to the next client is not new."""
        ...

    def has(self, a: int, b: int) -> bool:
        """Whether there is an edge between a and b."""
        ...


class _Rows:
    """Looked up in the table of neighbours itself, whose first columns are filled: for many clients with few
    neighbours each, where a bit for each pair would be the larger table.
    """

    def __init__(self, found: Neighbours) -> None:
        self.n, self._found, self._filled = len(found), found, 0

    def add(self, cycle: NDArray[np.int64]) -> None:
        self._filled += 2

    def repeated(self, cycle: NDArray[np.int64]) -> list[int]:
        same = self._found[cycle, : self._filled] == np.roll(cycle, -1)[:, None]
        return [int(i) for i in np.flatnonzero(same.any(axis=1))]

    def has(self, a: int, b: int) -> bool:
        return bool((self._found[a, : self._filled] == b).any())


class _Bits:
    """One bit for each pair a < b, at a n + b."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._bits = bytearray(n * n // 8 + 1)

    def add(self, cycle: NDArray[np.int64]) -> None:
        codes = self._codes(cycle)
        view = np.frombuffer(self._bits, np.uint8)
        np.bitwise_or.at(view, codes >> 3, (1 << (codes & 7)).astype(np.uint8))

    def repeated(self, cycle: NDArray[np.int64]) -> list[int]:
        codes = self._codes(cycle)
        view = np.frombuffer(self._bits, np.uint8)
        return [int(i) for i in np.flatnonzero(view[codes >> 3] >> (codes & 7) & 1)]

    def has(self, a: int, b: int) -> bool:
        code = a * self.n + b if a < b else b * self.n + a
        return self._bits[code >> 3] >> (code & 7) & 1 == 1

    def _codes(self, cycle: NDArray[np.int64]) -> NDArray[np.int64]:
        following = np.roll(cycle, -1)
        return np.minimum(cycle, following) * self.n + np.maximum(cycle, following)


def _new_edges_only(cycle: NDArray[np.int64], edges: _Edges, random: Stream) -> NDArray[np.int64] | None:
    """The cycle with clients swapped, at random places, until none of its edges is there already; or None."""
    n, has, order, wrong = edges.n, edges.has, cycle.tolist(), edges.repeated(cycle)

    def repeats(places: set[int]) -> list[int]:
        return [i for i in places if has(order[i], order[i + 1 - n])]

    for _ in range(MOST_SWAPS):
        for other in random.integers(0, n, n).tolist():
            if not wrong:
                return np.array(order, np.int64)
            place = wrong[-1]
            around = {place, (place - 1) % n, other, (other - 1) % n}
            order[place], order[other] = order[other], order[place]
            after = repeats(around)
            if len(after) > 1:  # one of them was wrong before, at `place`
                order[place], order[other] = order[other], order[place]
                if len(after) > len(repeats(around)):
                    continue
                order[place], order[other] = order[other], order[place]
            wrong = [i for i in wrong if i not in around] + sorted(after)
    return None
