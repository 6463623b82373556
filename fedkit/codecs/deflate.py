"""DEFLATE (RFC 1951) with Huffman codes only: an order-0 entropy coder in the standard library."""

from __future__ import annotations

import zlib

from fedkit.codecs.reader import Reader, varint
from fedkit.errors import WireError


def deflate(data: bytes | memoryview) -> bytes:
    """Raw DEFLATE of `data` without string matching."""
    coder = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(data) + coder.flush()


def inflate(data: bytes | memoryview, size: int) -> bytes:
    """The `size` bytes inside; WireError if there are more or fewer. Memory is bounded by size."""
    coder = zlib.decompressobj(-15)
    try:
        made = coder.decompress(data, size + 1)
    except zlib.error as error:
        raise WireError(f"payload: {error}") from None
    if len(made) != size or not coder.eof or coder.unused_data or coder.unconsumed_tail:
        raise WireError(f"payload: a compressed part does not hold exactly {size} bytes")
    return made


def section(data: bytes) -> bytes:
    """The deflated bytes after their length."""
    packed = deflate(data)
    return varint(len(packed)) + packed


def read_section(reader: Reader, size: int) -> bytes:
    """The `size` bytes of a section."""
    return inflate(reader.take(reader.varint(2 * size + 1024)), size)
