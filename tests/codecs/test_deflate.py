"""Huffman-only DEFLATE, and what it refuses."""

from __future__ import annotations

import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.codecs.deflate import deflate, inflate, read_section, section
from fedkit.codecs.reader import Reader
from fedkit.errors import WireError
from fedkit.seeds import stream


@given(st.binary(max_size=2000))
def test_inflate_undoes_deflate(data: bytes) -> None:
    assert inflate(deflate(data), len(data)) == data
    reader = Reader(section(data) + b"rest")
    assert read_section(reader, len(data)) == data
    assert bytes(reader.rest()) == b"rest"


def test_the_size_is_near_the_entropy() -> None:
    drawn = (stream(0, "x").uniform(100_000) ** 4 * 20).astype(np.uint8)
    share = np.bincount(drawn) / len(drawn)
    entropy = -(share[share > 0] * np.log2(share[share > 0])).sum()
    assert len(deflate(drawn.tobytes())) * 8 / len(drawn) <= 1.03 * entropy


@pytest.mark.parametrize("size", [0, 1, 999, 1001])
def test_another_size_is_refused(size: int) -> None:
    with pytest.raises(WireError):
        inflate(deflate(bytes(1000)), size)


def test_bytes_that_are_cut_followed_by_others_or_no_deflate_are_refused() -> None:
    good = deflate(bytes(range(256)))
    for bad in (good[:-1], good[: len(good) // 2], b"", good + b"\0", good + good, b"\xff" * 40):
        with pytest.raises(WireError):
            inflate(bad, 256)


def test_a_bomb_costs_no_more_than_the_known_size() -> None:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = coder.compress(bytes(1 << 26)) + coder.flush()
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            inflate(bomb, 1000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
