"""What everyone who is in a session knows: who takes part, who is whose neighbour, what is hashed and signed.

Clients are numbers here, their places in the roster, which is in the order of ids. `context` is
SHA-256(SHA-256(header) ‖ root of the roster): it salts every key, is in every signature and box, and is
the seed of the graph. Clients who were shown different headers or rosters have no key in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import CryptoError
from fedkit.messages import ClientId
from fedkit.secagg.frames import Flags, client_bytes, packed, statement
from fedkit.secagg.graph import Neighbours, graph_seed, neighbours
from fedkit.secagg.header import Header
from fedkit.secagg.messages import Advert
from fedkit.secagg.parameters import Parameters, assess
from fedkit.secagg.primitives.boxes import Sealer, open_box
from fedkit.secagg.primitives.digests import merkle_root
from fedkit.secagg.primitives.keys import BOX_KEY_BYTES, AgreementKey, hkdf, mask_key, self_key
from fedkit.secagg.primitives.masks import Lanes, Mask, add_masks
from fedkit.secagg.primitives.suite import Suite

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Session:
    """One session, from the roster on. clients: those of the roster; digests: hashes of their adverts."""

    header: Header
    clients: tuple[ClientId, ...]
    digests: tuple[bytes, ...]
    parameters: Parameters

    @cached_property
    def context(self) -> bytes:
        """What binds everything to this header and this roster."""
        both = zip(self.clients, self.digests, strict=True)
        root = merkle_root([digest + client.encode() for client, digest in both])
        return graph_seed(self.header.digest, root)

    @cached_property
    def number(self) -> dict[ClientId, int]:
        """The place of each client."""
        return {client: number for number, client in enumerate(self.clients)}

    @cached_property
    def graph(self) -> Neighbours:
        """The neighbours of each client, ascending: (n, k)."""
        return neighbours(len(self.clients), self.parameters.neighbours, self.context)

    @cached_property
    def circles(self) -> Numbers:
        """Each client and its neighbours, ascending: who holds its shares, and whose it holds: (n, k + 1)."""
        own = np.arange(len(self.clients))[:, None]
        return np.sort(np.hstack([self.graph, own]).astype(np.int64), axis=1)

    @cached_property
    def routes(self) -> Numbers:
        """Where, in a table with a row for each client and a column for each of its `graph`, stands what the
        neighbours of a client have for it: places in the table laid flat, (n, k)."""
        return _routes(self.graph)

    @cached_property
    def circle_routes(self) -> Numbers:
        """The same for tables with a column for each of `circles`: (n, k + 1)."""
        return _routes(self.circles)

    def circle(self, number: int) -> Numbers:
        """One row of `circles`, without the others."""
        near = self.graph[number].astype(np.int64)
        return np.insert(near, np.searchsorted(near, number), number)

    def holders(self, number: int, alive: Flags) -> int:
        """How many of those that hold shares of a client are alive."""
        return int(np.count_nonzero(alive[self.circle(number)]))

    def connected(self, survivors: Flags) -> bool:
        """Whether so many are left that, but for the policy's probability, the survivors hang together."""
        n, alive, policy = len(survivors), int(np.count_nonzero(survivors)), self.header.policy
        made, lost = self.parameters, replace(policy, dropout=1 - alive / n)
        worth = assess(n, made.neighbours, made.threshold, lost)
        return worth.disconnected <= -(policy.sigma + 1)

    def flags(self, clients: Sequence[ClientId]) -> Flags:
        """A set of clients."""
        made = np.zeros(len(self.clients), np.bool_)
        made[[self.number[client] for client in clients]] = True
        return made

    def named(self, flags: Flags) -> tuple[ClientId, ...]:
        """The clients of a set, in order."""
        return tuple(self.clients[number] for number in np.flatnonzero(flags))


def _routes(table: NDArray[np.integer[Any]]) -> Numbers:
    """Neighbours are so mutually: the r-th row that has client j in it is that of its r-th neighbour."""
    return np.argsort(table, axis=None, kind="stable").reshape(table.shape)


def header_text(header: bytes) -> bytes:
    """What the server signs of a header."""
    return statement("header", header)


def advert_text(header: bytes, advert: Advert) -> bytes:
    """What a client signs of its advert; header: SHA-256."""
    return statement("advert", header, advert.claims)


def box_text(context: bytes, sender: ClientId, receiver: ClientId) -> bytes:
    """What a box is bound to."""
    return statement("box", context, client_bytes(sender), client_bytes(receiver))


def mask_claims(sharers: Flags, tail: bytes | memoryview) -> bytes:
    """What is said beside the vector, as SHA-256: who it is masked with, and the masked tail."""
    return sha256(statement("claims", packed(sharers), bytes(tail))).digest()


def mask_text(context: bytes, claims: bytes, tag: bytes) -> bytes:
    """What a client signs of its vector; `tag` authenticates vector and claims."""
    return statement("mask", context, claims, tag)


def agree_text(context: bytes, sharers: Flags, survivors: Flags) -> bytes:
    """What survivors sign."""
    return sha256(statement("agree", context, packed(sharers), packed(survivors))).digest()


@dataclass(frozen=True)
class Link:
    """Authenticates what one client sends to the server: AES-GMAC or Poly1305, a key for each purpose.

    A signature needs a hash of a vector of megabytes, ten times as dear.
    """

    suite: Suite
    context: bytes
    client: ClientId
    agreed: bytes = field(repr=False)

    @classmethod
    def between(cls, session: Session, client: ClientId, own: AgreementKey, peer: bytes) -> Link:
        """The link of a client, from either end. CryptoError: a key of low order."""
        return cls(session.header.suite, session.context, client, own.agree(peer))

    def tag(self, purpose: str, data: bytes | memoryview, claims: bytes = b"") -> bytes:
        """The tag of `data` and `claims`, 16 bytes. claims: short, they go into the key."""
        return Sealer(self.suite, self._key(purpose, claims)).seal(b"", data)

    def holds(self, purpose: str, data: bytes | memoryview, tag: bytes, claims: bytes = b"") -> bool:
        """Whether `tag` is that of `data` and `claims`."""
        try:
            return open_box(self.suite, self._key(purpose, claims), tag, data) == b""
        except CryptoError:
            return False

    def _key(self, purpose: str, claims: bytes) -> bytes:
        info = statement("link", purpose.encode(), client_bytes(self.client), claims)
        return hkdf(self.context, self.agreed, info, BOX_KEY_BYTES)


def pair_mask(session: Session, agreed: bytes, own: int, peer: int) -> Mask:
    """What `own` adds for `peer`: of the two, the first in the roster adds, the other one subtracts."""
    a, b = session.clients[own], session.clients[peer]
    key = mask_key(session.context, agreed, a, b, session.header.suite.mask_bytes)
    return Mask(key, 1 if own < peer else -1)


def self_mask(session: Session, secret: bytes, own: int, sign: int = 1) -> Mask:
    """What `own` adds for itself, from its secret b; sign -1 takes it off."""
    size, owner = session.header.suite.mask_bytes, session.clients[own]
    return Mask(self_key(session.context, secret, owner, size), sign)


def mask_both(
    session: Session, vector: Lanes, tail: NDArray[np.uint64], masks: Iterable[Mask], threads: int = 1
) -> None:
    """Mask a vector and its tail in place: the streams begin with the tail."""
    add_masks((tail, vector), masks, session.header.suite, threads=threads)


def lanes_of(data: memoryview | bytes, width: int) -> Lanes:
    """Little-endian bytes as lanes, not copied."""
    return np.frombuffer(data, np.dtype(f"<u{width // 8}"))


def bytes_of(lanes: Lanes) -> memoryview:
    """Lanes as little-endian bytes, not copied where the machine is little-endian itself."""
    little = lanes.astype(lanes.dtype.newbyteorder("<"), copy=False)
    return little.view(np.uint8).data
