"""Signed lanes in 64-bit words: what secure aggregation adds, masks and sends.

A word holds floor(64 / width) lanes as the sum of lane j times 2^(width j), modulo 2^64. Adding words
adds their lanes, borrows included; so do masks that are added to whole words. Lanes come back exact
while each of their sums is in [-2^(width - 1), 2^(width - 1)), whatever the addends are; one that is not
comes back modulo 2^width and moves its upper neighbour by one for each time that it has gone round. Lane j
of word i is value j L + i of L words.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Words: TypeAlias = NDArray[np.uint64]
Lanes: TypeAlias = NDArray[np.signedinteger[Any]]


def words(count: int, width: int) -> int:
    """How many words `count` lanes of `width` bits (1 to 32) need."""
    return -(-count // (64 // width))


def pack(values: Lanes, width: int) -> Words:
    """The values as lanes; any integers, since words are added modulo 2^64."""
    length = words(len(values), width)
    made = np.zeros(length, np.uint64)
    for lane in reversed(range(64 // width)):
        made <<= np.uint64(width)
        plane = values[lane * length : (lane + 1) * length]
        made[: len(plane)] += plane.astype(np.int64, copy=False).view(np.uint64)
    return made


def unpack(packed: Words, count: int, width: int) -> NDArray[np.int32]:
    """`count` lanes, each in [-2^(width - 1), 2^(width - 1))."""
    length, half = len(packed), 1 << (width - 1)
    # half in each lane makes all of them positive, so that none borrows from the next
    rest = packed + np.uint64(sum(half << (width * lane) for lane in range(64 // width)))
    values = np.empty(count, np.int32)
    for lane in range(64 // width):
        plane = values[lane * length : (lane + 1) * length]
        field = rest[: len(plane)] & np.uint64((1 << width) - 1)
        np.subtract(field.view(np.int64), half, out=plane, casting="unsafe")
        rest >>= np.uint64(width)
    return values
