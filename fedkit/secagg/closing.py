"""The second half of what a secure session says: from the masked vector on. See `messages`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from fedkit.errors import WireError
from fedkit.secagg.frames import Flags, Reader, exactly, frame, packed
from fedkit.secagg.primitives.boxes import TAG_BYTES
from fedkit.secagg.primitives.signatures import SIGNATURE_BYTES
from fedkit.secagg.primitives.suite import SECRET_BYTES


@dataclass(frozen=True, slots=True)
class Masked:
    """Kind 6: tail, 8 bytes a lane; tag, 16 bytes; signature, 64; the masked vector.

    The vector starts at a multiple of 8 bytes.
    """

    tail: bytes | memoryview
    tag: bytes
    signature: bytes
    vector: bytes | memoryview
    kind: ClassVar[int] = 6

    def to_bytes(self) -> bytes:
        if len(self.tail) % 8:
            raise WireError(f"a tail of {len(self.tail)} bytes is not of 64-bit lanes")
        signature = exactly((self.signature,), SIGNATURE_BYTES, "a signature")
        return frame(self.kind, self.tail, exactly((self.tag,), TAG_BYTES, "a tag"), signature, self.vector)

    @classmethod
    def size(cls, vector: int, tail: int) -> int:
        """Bytes of the message with a vector of so many bytes and a tail of so many lanes."""
        return len(cls(bytes(8 * tail), bytes(TAG_BYTES), bytes(SIGNATURE_BYTES), b"").to_bytes()) + vector

    @classmethod
    def from_bytes(cls, data: bytes, vector: int, tail: int) -> Masked:
        """vector: bytes. tail: lanes. Both stay views of `data`."""
        reader = Reader(data, cls.kind)
        made = cls(
            reader.view(8 * tail), reader.take(TAG_BYTES), reader.take(SIGNATURE_BYTES), reader.view(vector)
        )
        reader.end()
        return made


@dataclass(frozen=True, slots=True)
class Survivors:
    """Kind 7: whose vectors are in the sum, one bit for each client of the roster."""

    members: Flags
    kind: ClassVar[int] = 7

    def to_bytes(self) -> bytes:
        return frame(self.kind, packed(self.members))

    @classmethod
    def from_bytes(cls, data: bytes, clients: int) -> Survivors:
        reader = Reader(data, cls.kind)
        made = cls(reader.flags(clients))
        reader.end()
        return made


@dataclass(frozen=True, slots=True)
class Agreed:
    """Kind 8: a client's signature of the survivors, 64 bytes."""

    signature: bytes
    kind: ClassVar[int] = 8

    def to_bytes(self) -> bytes:
        return frame(self.kind, exactly((self.signature,), SIGNATURE_BYTES, "a signature"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Agreed:
        reader = Reader(data, cls.kind)
        made = cls(reader.take(SIGNATURE_BYTES))
        reader.end()
        return made


@dataclass(frozen=True, slots=True)
class Quorum:
    """Kind 9: which neighbours signed, one bit each in the order of ids; their signatures, 64 bytes each."""

    signers: Flags
    signatures: tuple[bytes, ...]
    kind: ClassVar[int] = 9

    def to_bytes(self) -> bytes:
        _as_many(self.signers, self.signatures, "signatures")
        return frame(
            self.kind, packed(self.signers), exactly(self.signatures, SIGNATURE_BYTES, "a signature")
        )

    @classmethod
    def from_bytes(cls, data: bytes, neighbours: int) -> Quorum:
        reader = Reader(data, cls.kind)
        signers = reader.flags(neighbours)
        made = cls(signers, reader.blocks(int(np.count_nonzero(signers)), SIGNATURE_BYTES))
        reader.end()
        return made


@dataclass(frozen=True, slots=True)
class Opened:
    """Kind 10: whose shares are given, one bit for each neighbour and the client itself, in the order of ids;
    shares, 32 bytes each: of b where the owner is in the sum, of its masking secret where it was lost; tag,
    16 bytes."""

    owners: Flags
    shares: tuple[bytes, ...] = field(repr=False)
    tag: bytes
    kind: ClassVar[int] = 10

    @property
    def claims(self) -> bytes:
        """What the tag authenticates."""
        _as_many(self.owners, self.shares, "shares")
        return packed(self.owners) + exactly(self.shares, SECRET_BYTES, "a share")

    def to_bytes(self) -> bytes:
        return frame(self.kind, self.claims, exactly((self.tag,), TAG_BYTES, "a tag"))

    @classmethod
    def from_bytes(cls, data: bytes, owners: int) -> Opened:
        reader = Reader(data, cls.kind)
        given = reader.flags(owners)
        shares = reader.blocks(int(np.count_nonzero(given)), SECRET_BYTES)
        made = cls(given, shares, reader.take(TAG_BYTES))
        reader.end()
        return made


def _as_many(flags: Flags, items: tuple[bytes, ...], what: str) -> None:
    if int(np.count_nonzero(flags)) != len(items):
        raise WireError(f"{len(items)} {what} for {int(np.count_nonzero(flags))} bits that are set")
