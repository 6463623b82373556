"""Few nonzero integers among many zeros: gaps between them, Rice-split and Huffman coded.

A gap is split into high and low bits (Rice and Plaunt 1971): the low bits are near uniform and go
raw, the high part, the sign and "magnitude above 1" make one token byte for DEFLATE. A geometric gap
is coded within 1 % of its entropy. Every array made in decoding is bounded by the known vector length.

    varint m                 number of nonzero values; nothing follows when it is 0
    byte r                   raw bits of a gap
    varint t, section        t tokens: 4 h + 2 (magnitude > 1) + (negative), h < 63; 252 adds 63 to the next h
    section                  min(magnitude - 2, 255) of each value whose magnitude is above 1
    m r bits                 the low bits, bit plane after bit plane, low planes first
    uint16 ...               magnitude of each value whose byte above is 255
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkit.codecs.deflate import read_section, section
from fedkit.codecs.reader import Reader, varint
from fedkit.errors import WireError

Integers: TypeAlias = NDArray[np.int64]
SKIP, STEP = 252, 63
LARGEST = 2**16 - 1


def encode(positions: Integers, values: Integers) -> bytes:
    """`values` (none zero, magnitudes to 65535) at increasing `positions`."""
    count = len(positions)
    if not count:
        return varint(0)
    gaps = np.diff(positions, prepend=-1) - 1
    raw = max(0, int(gaps.mean() / 16).bit_length())
    high = gaps >> raw
    skips = high // STEP
    tokens = np.full(count + int(skips.sum()), SKIP, np.uint8)
    sizes = np.abs(values)
    tokens[np.arange(count) + np.cumsum(skips)] = 4 * (high % STEP) + 2 * (sizes > 1) + (values < 0)
    big = sizes[sizes > 1]
    low = [np.packbits((gaps >> bit & 1).astype(np.uint8), bitorder="little").tobytes() for bit in range(raw)]
    return b"".join(
        (
            varint(count) + bytes([raw]) + varint(len(tokens)) + section(tokens.tobytes()),
            section(np.minimum(big - 2, 255).astype(np.uint8).tobytes()),
            *low,
            big[big >= 257].astype("<u2").tobytes(),
        )
    )


def decode(reader: Reader, d: int) -> tuple[Integers, Integers]:
    """Positions below d, and values; WireError on bytes that `encode` cannot have made."""
    count = reader.varint(d)
    if not count:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    raw = reader.take(1)[0]
    if raw > 40:
        raise WireError(f"payload: gaps with {raw} raw bits")
    total = reader.varint(count + (d >> raw) // STEP)
    tokens = np.frombuffer(read_section(reader, total), np.uint8)
    high, marks = _tokens(tokens, count)
    big = marks & 2 > 0
    sizes = np.ones(count, np.int64)
    extra = np.frombuffer(read_section(reader, int(big.sum())), np.uint8).astype(np.int64)
    gaps = high << raw
    for bit in range(raw):
        gaps |= _plane(reader, count) << bit
    extra[extra == 255] = _large(reader, int((extra == 255).sum()))
    sizes[big] = extra + 2
    positions = np.cumsum(gaps + 1) - 1
    if positions[-1] >= d:
        raise WireError(f"payload: a position past the {d} entries")
    return positions, np.where(marks & 1, -sizes, sizes)


def _tokens(tokens: NDArray[np.uint8], count: int) -> tuple[Integers, Integers]:
    """High parts of the gaps, and the two low bits of each token."""
    ends = np.flatnonzero(tokens < SKIP)
    if len(ends) != count or ends[-1] != len(tokens) - 1 or tokens.max() > SKIP:
        raise WireError("payload: tokens that do not make the stated number of values")
    last = tokens[ends].astype(np.int64)
    skips = np.diff(ends, prepend=-1) - 1
    return STEP * skips + (last >> 2), last & 3


def _plane(reader: Reader, count: int) -> Integers:
    packed = np.frombuffer(reader.take((count + 7) // 8), np.uint8)
    return np.unpackbits(packed, count=count, bitorder="little").astype(np.int64)


def _large(reader: Reader, count: int) -> Integers:
    sizes = reader.uint16(count).astype(np.int64)
    if (sizes < 257).any():
        raise WireError("payload: a small magnitude where a large one is due")
    return sizes - 2
