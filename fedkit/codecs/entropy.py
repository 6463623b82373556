"""Small signed integers into few bytes.

Three ways, chosen by a histogram: mostly zeros as gaps (gaps.py); otherwise 5, 3, 2 or 1 symbols
packed to a byte in base 3, 5, 15 or 255, then Huffman coded, with what exceeds the base as gaps; raw
when nothing helps. Within 1-3 % of the order-0 entropy for independent symbols.

    byte 0           0 raw, little-endian; 1 gaps; 2, 3, 4, 5 packed in base 3, 5, 15, 255
    packed           section of L = ceil(n / w) packed bytes, digit j of byte i is symbol j L + i; then gaps
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkit.codecs import gaps
from fedkit.codecs.deflate import read_section, section
from fedkit.codecs.reader import Reader
from fedkit.errors import WireError

Symbols: TypeAlias = NDArray[np.signedinteger[Any]]
"""int8 or int16."""
RAW, GAPS, PACKED = 0, 1, 2
SPARSE = 0.1
"""Below this share of nonzero symbols gaps are smaller than packed symbols, and faster."""
RARE = 0.02
"""The share of symbols that may exceed the base of the packing."""
_SAMPLE = 1 << 16


class Packing(NamedTuple):
    """`width` symbols of magnitude up to `most` in a byte."""

    most: int
    width: int

    @property
    def base(self) -> int:
        return 2 * self.most + 1


PACKINGS = (Packing(1, 5), Packing(2, 3), Packing(7, 2), Packing(127, 1))


def max_len(n: int, dtype: np.dtype[Any]) -> int:
    """Upper bound of the bytes for n symbols."""
    return 1 + n * dtype.itemsize


def encode(symbols: Symbols) -> bytes:
    """The symbols as bytes, in the way that a sample of them suggests."""
    way = _choose(symbols)
    coded = _encode_sparse(symbols) if way == GAPS else _encode_packed(symbols, PACKINGS[way - PACKED])
    if len(coded) < symbols.nbytes:
        return bytes([way]) + coded
    return bytes([RAW]) + symbols.astype(symbols.dtype.newbyteorder("<"), copy=False).tobytes()


def decode(data: memoryview, n: int, dtype: np.dtype[Any]) -> Symbols:
    """n symbols of `dtype`; WireError on bytes that `encode` cannot have made."""
    reader = Reader(data)
    way = reader.take(1)[0]
    if way == RAW:
        made: Symbols = np.frombuffer(reader.take(n * dtype.itemsize), dtype.newbyteorder("<")).astype(dtype)
    elif way == GAPS:
        made = _add(np.zeros(n, dtype), reader)
    elif way - PACKED < len(PACKINGS):
        packing = PACKINGS[way - PACKED]
        packed = np.frombuffer(read_section(reader, -(-n // packing.width)), np.uint8)
        made = _add(_unpack(packed, n, packing).astype(dtype, copy=False), reader)
    else:
        raise WireError(f"payload: no symbol coding {way}")
    reader.done()
    return made


def _choose(symbols: Symbols) -> int:
    sample = np.abs(symbols[:: max(1, len(symbols) // _SAMPLE)].astype(np.int32))
    if np.count_nonzero(sample) < SPARSE * len(sample):
        return GAPS
    fits = (np.count_nonzero(sample > p.most) <= RARE * len(sample) for p in PACKINGS[:-1])
    return PACKED + next((way for way, fit in enumerate(fits) if fit), len(PACKINGS) - 1)


def _encode_sparse(symbols: Symbols) -> bytes:
    positions = np.flatnonzero(symbols != 0)  # numpy finds True ten times faster than nonzero int8
    return gaps.encode(positions, symbols[positions].astype(np.int64))


def _encode_packed(symbols: Symbols, packing: Packing) -> bytes:
    clipped = np.clip(symbols, -packing.most, packing.most)
    packed = section(_pack(clipped.astype(np.int8, copy=False), packing).tobytes())
    return packed + _encode_sparse(symbols - clipped)


def _pack(symbols: NDArray[np.int8], packing: Packing) -> NDArray[np.uint8]:
    """Digit j of byte i is symbol j L + i of L bytes: whole planes are added, without strides."""
    length = -(-len(symbols) // packing.width)
    planes = np.zeros((packing.width, length), np.uint8)
    flat = planes.reshape(-1)[: len(symbols)]
    np.add(symbols.view(np.uint8), np.uint8(packing.most), out=flat)  # wraps to 0 .. 2 most
    packed: NDArray[np.uint8] = planes[-1].copy()
    for plane in planes[-2::-1]:
        packed *= np.uint8(packing.base & 255)
        packed += plane
    return packed


def _unpack(packed: NDArray[np.uint8], n: int, packing: Packing) -> NDArray[np.int8]:
    if packed.size and int(packed.max()) >= packing.base**packing.width:
        raise WireError("payload: a packed byte out of range")
    planes = np.empty((packing.width, len(packed)), np.uint8)
    base = np.uint8(packing.base)
    rest = packed
    for plane in planes[:-1]:
        above = rest // base
        np.subtract(rest, above * base, out=plane)
        rest = above
    planes[-1] = rest
    return (planes.reshape(-1)[:n] - np.uint8(packing.most)).view(np.int8)


def _add(symbols: Symbols, reader: Reader) -> Symbols:
    """The symbols with what stands as gaps added, in place."""
    positions, values = gaps.decode(reader, len(symbols))
    sums = symbols[positions] + values
    limit = np.iinfo(symbols.dtype).max
    if len(sums) and int(np.abs(sums).max()) > limit:
        raise WireError(f"payload: a symbol beyond {limit}")
    symbols[positions] = sums
    return symbols
