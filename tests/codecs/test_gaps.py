"""Few nonzero integers among many zeros."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.codecs import gaps
from fedkit.codecs.deflate import section
from fedkit.codecs.reader import Reader, varint
from fedkit.errors import WireError
from fedkit.seeds import stream

VALUE = st.integers(-gaps.LARGEST, gaps.LARGEST).filter(bool)


@given(st.dictionaries(st.integers(0, 5000), st.one_of(st.sampled_from([-1, 1, 2, -2]), VALUE)))
def test_positions_and_values_come_back(entries: dict[int, int]) -> None:
    positions = np.array(sorted(entries), np.int64)
    values = np.array([entries[p] for p in sorted(entries)], np.int64)
    reader = Reader(gaps.encode(positions, values) + b"after")
    got_positions, got_values = gaps.decode(reader, 5001)
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
    again = gaps.decode(Reader(gaps.encode(positions, values)), 10**6 + 2)
    assert [a.tolist() for a in again] == [positions.tolist(), values.tolist()]
    with pytest.raises(WireError, match="past the"):
        gaps.decode(Reader(gaps.encode(positions, values)), 10**6 + 1)


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
            gaps.decode(Reader(bad), 100)
