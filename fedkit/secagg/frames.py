"""Frames of a secure session: strict reading of bytes that come from outside, and the texts that get signed.

A frame is 16 bytes and a body, all little-endian:

    0  2  "SA"        3  1  kind         8  8  length of the body
    2  1  version 1   4  4  zero

Nothing is allocated by a number in a frame before the bytes it speaks of are there.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import WireError
from fedkit.messages import MOST_ID_BYTES, ClientId

Flags: TypeAlias = NDArray[np.bool_]

MAGIC: Final = b"SA"
VERSION: Final = 1
PROTOCOL: Final = b"fedkit/secagg/1"
PREFIX: Final = 16  # a multiple of 8: lanes that follow are aligned

_PREFIX = struct.Struct("<2sBBIQ")


def frame(kind: int, *parts: bytes | memoryview) -> bytes:
    """The frame of a body that is given in parts."""
    return b"".join((_PREFIX.pack(MAGIC, VERSION, kind, 0, sum(map(len, parts))), *parts))


def statement(purpose: str, *parts: bytes) -> bytes:
    """What gets signed: the purpose, then parts, each after its length, so that none runs into the next."""
    return b"".join(len(part).to_bytes(8, "little") + part for part in (PROTOCOL, purpose.encode(), *parts))


def parts_of(text: bytes) -> list[bytes]:
    """What a statement was made of. WireError: it is none."""
    found, at = [], 0
    while at < len(text):
        start = at + 8
        at = start + int.from_bytes(text[at:start], "little")
        if at > len(text):
            raise WireError("a statement that is cut off")
        found.append(text[start:at])
    return found


class Reader:
    """Takes a frame of `kind` apart. WireError: it is not one, or has other lengths than it says."""

    def __init__(self, data: bytes, kind: int) -> None:
        if len(data) < PREFIX:
            raise WireError(f"{len(data)} bytes are too few for a message of a secure session")
        magic, version, found, zero, length = _PREFIX.unpack_from(data)
        if (magic, zero) != (MAGIC, 0):
            raise WireError("not a message of a secure session")
        if version != VERSION:
            raise WireError(f"a secure session of version {version}; this side speaks version {VERSION}")
        if found != kind:
            raise WireError(f"message {found} of a secure session where {kind} was expected")
        if length != len(data) - PREFIX:
            raise WireError(f"a body of {len(data) - PREFIX} bytes that says it has {length}")
        self._data = memoryview(data)
        self._at = PREFIX

    @property
    def left(self) -> int:
        """Bytes not taken yet."""
        return len(self._data) - self._at

    def view(self, count: int) -> memoryview:
        """The next `count` bytes, not copied."""
        if not 0 <= count <= self.left:
            raise WireError(f"{count} bytes are wanted where {self.left} are left")
        self._at += count
        return self._data[self._at - count : self._at]

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        return bytes(self.view(count))

    def number(self, size: int) -> int:
        """An unsigned integer of `size` bytes."""
        return int.from_bytes(self.view(size), "little")

    def sized(self, size: int, most: int) -> bytes:
        """Bytes with their length before them, of `size` bytes; at most `most`."""
        length = self.number(size)
        if length > most:
            raise WireError(f"a field of {length} bytes where {most} are the most")
        return self.take(length)

    def text(self, size: int, most: int) -> str:
        """UTF-8 with its length before it."""
        try:
            return self.sized(size, most).decode()
        except UnicodeDecodeError as error:
            raise WireError(f"a text that is not UTF-8: {error}") from None

    def client(self) -> ClientId:
        """An id of 1 to 255 bytes of UTF-8."""
        return self.clients(1)[0]

    def clients(self, count: int) -> tuple[ClientId, ...]:
        """So many ids."""
        names: list[ClientId] = []
        data, at = self._data, self._at
        try:
            for _ in range(count):
                end = at + 1 + data[at]
                names.append(str(data[at + 1 : end], "utf-8"))
                at = end
        except (IndexError, UnicodeDecodeError) as error:
            raise WireError(f"a client id that is none: {error}") from None
        if at > len(data) or not all(names):
            raise WireError("an empty client id, or one that is cut off")
        self._at = at
        return tuple(names)

    def blocks(self, count: int, size: int) -> tuple[bytes, ...]:
        """`count` items of `size` bytes."""
        data = self.view(count * size)
        return struct.unpack(f"{size}s" * count, data)

    def flags(self, count: int) -> Flags:
        """`count` bits, the lowest of a byte first; the rest of the last byte is zero."""
        return unpacked(self.take(-(-count // 8)), count)

    def end(self) -> None:
        """WireError unless all was taken."""
        if self.left:
            raise WireError(f"{self.left} bytes too many")


def sized(data: bytes, size: int) -> bytes:
    """`data` with its length before it, in `size` bytes. WireError: too long for that."""
    if len(data) >= 1 << 8 * size:
        raise WireError(f"a field of {len(data)} bytes: its length does not fit in {size} bytes")
    return len(data).to_bytes(size, "little") + data


def client_bytes(client: ClientId) -> bytes:
    """A client id as it travels. WireError: empty, longer than 255 bytes, or no Unicode text."""
    try:
        name = client.encode()
    except UnicodeEncodeError as error:
        raise WireError(f"client id {client!r} is no Unicode text: {error}") from None
    if not 1 <= len(name) <= MOST_ID_BYTES:
        raise WireError(f"a client id has 1 to {MOST_ID_BYTES} bytes of UTF-8, not {len(name)}")
    return sized(name, 1)


def packed(flags: Flags) -> bytes:
    """A set as bits, the lowest of a byte first."""
    return np.packbits(flags, bitorder="little").tobytes()


def unpacked(data: bytes, count: int) -> Flags:
    """The set of `count` flags in these bits. WireError: too few bytes, or too many bits."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little").astype(np.bool_)
    if len(data) != -(-count // 8) or bits[count:].any():
        raise WireError("bits beyond the end of a set")
    return bits[:count]


def exactly(data: Sequence[bytes], size: int, what: str) -> bytes:
    """Items of `size` bytes, joined. WireError: one has another size."""
    if wrong := set(map(len, data)) - {size}:
        raise WireError(f"{what} of {min(wrong)} bytes, not {size}")
    return b"".join(data)
