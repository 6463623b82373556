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

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkit.codecs.deflate import read_section, section
from fedkit.codecs.reader import Reader, varint
from fedkit.errors import WireError

Integers: TypeAlias = NDArray[np.int64]
SKIP, STEP = 252, 63
LARGEST = 2**16 - 1
_PIECE = 1 << 17
"""Tokens handled at a time."""


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


def decode(reader: Reader, d: int, due: int | None = None) -> Iterator[tuple[Integers, Integers]]:
    """Increasing positions below d with their values, piece by piece; `due`: how many there must be.

    All bytes are taken at once. Memory beyond them is some bytes for each value, of which there are at most
    d, and a piece. WireError, perhaps between pieces, on bytes that `encode` cannot have made.
    """
    count = reader.varint(d)
    if due is not None and count != due:
        raise WireError(f"payload: {count} positions, {due} are due")
    if not count:
        return iter(())
    raw = reader.take(1)[0]
    if raw and not d >> raw:
        raise WireError(f"payload: gaps with {raw} raw bits among {d} entries")
    total = reader.varint(count + (d >> raw) // STEP)
    tokens = np.frombuffer(read_section(reader, total), np.uint8)
    _check(tokens, count)
    extra = np.frombuffer(read_section(reader, int(np.count_nonzero(tokens & 2))), np.uint8)
    planes = [np.frombuffer(reader.take((count + 7) // 8), np.uint8) for _ in range(raw)]
    large = _large(reader, int(np.count_nonzero(extra == 255)))
    return _pieces(d, tokens, planes, extra, large)


def _check(tokens: NDArray[np.uint8], count: int) -> None:
    """WireError unless the tokens make `count` values and nothing is left over."""
    if np.count_nonzero(tokens < SKIP) != count or tokens[-1] >= SKIP or tokens.max() > SKIP:
        raise WireError("payload: tokens that do not make the stated number of values")


def _pieces(
    d: int,
    tokens: NDArray[np.uint8],
    planes: Sequence[NDArray[np.uint8]],
    extra: NDArray[np.uint8],
    large: Integers,
) -> Iterator[tuple[Integers, Integers]]:
    """Positions and values of some tokens at a time."""
    start, at, skips = 0, -1, 0
    for low in range(0, len(tokens), _PIECE):
        part = tokens[low : low + _PIECE]
        ends = np.flatnonzero(part < SKIP)
        if not len(ends):
            skips += len(part)
            continue
        last = part[ends].astype(np.int64)
        skipped = np.diff(ends, prepend=-1) - 1
        skipped[0] += skips
        skips = len(part) - 1 - int(ends[-1])
        gaps = STEP * skipped + (last >> 2)
        gaps <<= len(planes)
        for bit, plane in enumerate(planes):
            gaps |= _bits(plane, start, len(gaps)) << bit
        if gaps.max() >= d:  # before they are summed: the sum of enormous ones would wrap
            raise WireError(f"payload: a position past the {d} entries")
        positions = np.cumsum(gaps + 1) + at
        start, at = start + len(gaps), int(positions[-1])
        if at >= d:
            raise WireError(f"payload: a position past the {d} entries")
        sizes, extra, large = _sizes(last & 2 > 0, extra, large)
        yield positions, np.where(last & 1, -sizes, sizes)


def _bits(plane: NDArray[np.uint8], start: int, count: int) -> Integers:
    """`count` bits of a plane from the bit `start` on."""
    first = start % 8
    bits = np.unpackbits(plane[start // 8 :], count=first + count, bitorder="little")
    return bits[first:].astype(np.int64)


def _sizes(
    big: NDArray[np.bool_], extra: NDArray[np.uint8], large: Integers
) -> tuple[Integers, NDArray[np.uint8], Integers]:
    """Magnitudes, and what is left of the bytes and numbers that they were read from."""
    count = int(np.count_nonzero(big))
    above = extra[:count].astype(np.int64)
    full = above == 255
    beyond = int(np.count_nonzero(full))
    above[full] = large[:beyond]
    sizes = np.ones(len(big), np.int64)
    sizes[big] = above + 2
    return sizes, extra[count:], large[beyond:]


def _large(reader: Reader, count: int) -> Integers:
    sizes = reader.uint16(count).astype(np.int64)
    if (sizes < 257).any():
        raise WireError("payload: a small magnitude where a large one is due")
    return sizes - 2
