"""Small signed integers into few bytes.

Three ways, chosen by a histogram: mostly zeros as gaps (gaps.py); otherwise 5, 3, 2 or 1 symbols
packed to a byte in base 3, 5, 15 or 255, then Huffman coded, and what the largest digits stand for as
gaps among them; raw when nothing helps. Within 1-3 % of the order-0 entropy for independent symbols.

    byte 0           0 raw, little-endian; 1 gaps; 2, 3, 4, 5 packed in base 3, 5, 15, 255
    packed           section of L = ceil(n / w) packed bytes, digit j of byte i is symbol j L + i; then
                     the gaps of magnitude - largest digit, over the symbols that reach it
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
RARE = 0.01
"""The share of symbols that may exceed the packing; so may a fifth of those that reach it."""
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
        made = np.zeros(n, dtype)
        for positions, values in gaps.decode(reader, n):
            made[positions] = _bounded(values, dtype)
    elif way - PACKED < len(PACKINGS):
        packing = PACKINGS[way - PACKED]
        packed = np.frombuffer(read_section(reader, -(-n // packing.width)), np.uint8)
        made = _exceed(_unpack(packed, n, packing).astype(dtype, copy=False), packing.most, reader)
    else:
        raise WireError(f"payload: no symbol coding {way}")
    reader.done()
    return made


def _choose(symbols: Symbols) -> int:
    sample = np.abs(symbols[:: max(1, len(symbols) // _SAMPLE)].astype(np.int32))
    if np.count_nonzero(sample) < SPARSE * len(sample):
        return GAPS
    for way, packing in enumerate(PACKINGS[:-1]):
        above, reach = np.count_nonzero(sample > packing.most), np.count_nonzero(sample >= packing.most)
        if above <= max(RARE * len(sample), 0.2 * reach):
            return PACKED + way
    return PACKED + len(PACKINGS) - 1


def _encode_sparse(symbols: Symbols) -> bytes:
    positions = np.flatnonzero(symbols != 0)  # numpy finds True ten times faster than nonzero int8
    return gaps.encode(positions, symbols[positions].astype(np.int64))


def _encode_packed(symbols: Symbols, packing: Packing) -> bytes:
    clipped = np.clip(symbols, -packing.most, packing.most).astype(np.int8, copy=False)
    packed = section(_pack(clipped, packing).tobytes())
    full = np.flatnonzero(np.abs(clipped) == packing.most)
    return packed + _encode_sparse(np.abs(symbols[full].astype(np.int32)) - packing.most)


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


def _exceed(symbols: Symbols, most: int, reader: Reader) -> Symbols:
    """The symbols, those at the limit of the packing raised by what stands as gaps among them."""
    full = np.flatnonzero(np.abs(symbols) == most)
    for positions, excess in gaps.decode(reader, len(full)):
        if (excess < 0).any():
            raise WireError("payload: a symbol below the limit that it exceeds")
        at = full[positions]
        symbols[at] = _bounded(np.sign(symbols[at]) * (most + excess), symbols.dtype)
    return symbols


def _bounded(values: NDArray[np.int64], dtype: np.dtype[Any]) -> NDArray[np.int64]:
    limit = np.iinfo(dtype).max
    if len(values) and int(np.abs(values).max()) > limit:
        raise WireError(f"payload: a symbol beyond {limit}")
    return values
