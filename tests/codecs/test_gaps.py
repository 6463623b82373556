"""Few nonzero integers among many zeros."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedkit.codecs import gaps
from fedkit.codecs.deflate import section
from fedkit.codecs.reader import Reader, varint
from fedkit.errors import WireError
from fedkit.seeds import stream

Integers = NDArray[np.int64]
VALUE = st.integers(-gaps.LARGEST, gaps.LARGEST).filter(bool)


def decoded(data: bytes | Reader, d: int) -> tuple[Integers, Integers]:
    """All pieces as one."""
    pieces = list(gaps.decode(data if isinstance(data, Reader) else Reader(data), d))
    none = np.empty(0, np.int64)
    return np.concatenate([none, *(at for at, _ in pieces)]), np.concatenate([none, *(v for _, v in pieces)])


@given(st.dictionaries(st.integers(0, 5000), st.one_of(st.sampled_from([-1, 1, 2, -2]), VALUE)))
def test_positions_and_values_come_back(entries: dict[int, int]) -> None:
    positions = np.array(sorted(entries), np.int64)
    values = np.array([entries[p] for p in sorted(entries)], np.int64)
    reader = Reader(gaps.encode(positions, values) + b"after")
    got_positions, got_values = decoded(reader, 5001)
    assert got_positions.tolist() == positions.tolist()
    assert got_values.tolist() == values.tolist()
    assert bytes(reader.rest()) == b"after"


@pytest.mark.parametrize("share", [0.001, 0.01, 0.05, 0.1])
def test_the_size_is_near_the_entropy(share: float) -> None:
    n = 1 << 19
    noise = stream(0, "gaps", round(1e6 * share))
    positions = np.flatnonzero(noise.uniform(n) < share)
    values = np.where(noise.uniform(len(positions)) < 0.5, 1, -1)
    p = len(positions) / n
    entropy = -(p * np.log2(p / 2) + (1 - p) * np.log2(1 - p))
    assert len(gaps.encode(positions, values)) * 8 / n <= 1.03 * entropy + 800 / n


def test_a_long_gap_and_the_largest_values_come_back() -> None:
    positions, values = np.array([0, 10**6, 10**6 + 1]), np.array([65535, -65535, 256])
    again = decoded(gaps.encode(positions, values), 10**6 + 2)
    assert [a.tolist() for a in again] == [positions.tolist(), values.tolist()]
    with pytest.raises(WireError, match="past the"):
        decoded(gaps.encode(positions, values), 10**6 + 1)


def test_counts_that_cannot_be_are_refused_before_anything_is_made() -> None:
    for bad in (
        varint(101),
        varint(1) + b"\xff" + varint(1) + section(b"\0"),
        varint(1) + b"\0" + varint(2**60),
        varint(2) + b"\0" + varint(2) + section(b"\0\xfc") + section(b""),
        varint(1) + b"\0" + varint(1) + section(b"\xfd") + section(b""),
        varint(1) + b"\0" + varint(2) + section(b"\0\0") + section(b""),
        varint(1) + b"\0" + varint(1) + section(b"\x02") + section(b"\xff") + b"\x02\0",
        varint(1) + b"\x05" + varint(1) + section(b"\0") + section(b""),
    ):
        with pytest.raises(WireError):
            decoded(bad, 100)


@pytest.mark.parametrize("share", [0.9, 0.05, 0.0004])
def test_many_pieces_are_one_whole(share: float) -> None:
    d = 1_500_000
    noise = stream(0, "pieces", round(1e6 * share))
    positions = np.flatnonzero(noise.uniform(d) < share)
    values = np.rint(noise.normal(len(positions)) ** 7).astype(np.int64).clip(-65535, 65535)
    values[values == 0] = 65535
    for at, kept in ((positions, values), (positions[-3:], values[-3:])):
        again = decoded(gaps.encode(at, kept), d)
        assert np.array_equal(again[0], at)
        assert np.array_equal(again[1], kept)


def wrapping(d: int, raw: int, first: int) -> bytes:
    """Gaps whose sum goes round 2^64 and ends at 5."""
    step = first + 1
    count = 2**64 // step + 1
    gap = [first] * count
    gap[-1] = 2**64 + 5 - (count - 1) * step
    numbers = np.array(gap, np.int64)
    planes = [np.packbits((numbers >> bit & 1).astype(np.uint8), bitorder="little") for bit in range(raw)]
    tokens = (4 * (numbers >> raw)).astype(np.uint8).tobytes()
    head = varint(count) + bytes([raw]) + varint(count) + section(tokens) + section(b"")
    return head + b"".join(plane.tobytes() for plane in planes)


def test_gaps_whose_sum_wraps_are_refused() -> None:
    data = wrapping(2_000_000, 40, 62 << 40)
    for d in (2_000_000, 2**41):
        with pytest.raises(WireError, match=r"40 raw bits|past the"):
            decoded(data, d)


@given(st.integers(0, 45), st.lists(st.integers(0, 252), min_size=1, max_size=40), st.integers(1, 2**36))
@settings(max_examples=300, deadline=None)
def test_any_tokens_decode_to_positions_in_order_or_are_refused(raw: int, tokens: list[int], d: int) -> None:
    count = sum(token < gaps.SKIP for token in tokens)
    marks = sum(token < gaps.SKIP and token & 2 > 0 for token in tokens)
    planes = stream(0, "planes", raw, len(tokens)).bytes(raw * ((count + 7) // 8))
    head = varint(count) + bytes([raw]) + varint(len(tokens))
    data = head + section(bytes(tokens)) + section(bytes(marks)) + planes
    try:
        positions, values = decoded(data, d)
    except WireError:
        return
    assert (np.diff(positions, prepend=-1) > 0).all()
    assert len(positions) == len(values) == count
    assert count == 0 or positions[-1] < d


@pytest.mark.parametrize("token", [0, 2])
def test_few_bytes_stay_few(token: int) -> None:
    d = 1_000_000
    data = varint(d) + b"\0" + varint(d) + section(bytes([token]) * d) + section(bytes(d if token else 0))
    tracemalloc.start()
    try:
        for positions, _ in gaps.decode(Reader(data), d):
            assert len(positions)
        assert tracemalloc.get_traced_memory()[1] <= 4 * d + (20 << 20)
    finally:
        tracemalloc.stop()
