"""Signed lanes in words: sums of words are words of sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fedkit.codecs import lanes

WIDTHS = [*range(2, 17), 21, 32]


@st.composite
def stacks(draw: st.DrawFn) -> tuple[int, NDArray[np.int64]]:
    """A width, and rows of values whose sum fits it."""
    width, rows = draw(st.sampled_from(WIDTHS)), draw(st.integers(1, 5))
    most = (1 << (width - 1)) // rows
    shape = (rows, draw(st.integers(0, 70)))
    return width, draw(arrays(np.int64, shape, elements=st.integers(-most, max(most - 1, 0))))


@given(stacks())
def test_lanes_of_a_sum_are_the_sums_of_lanes(case: tuple[int, NDArray[np.int64]]) -> None:
    width, values = case
    total = np.array([lanes.pack(row, width) for row in values]).sum(axis=0, dtype=np.uint64)
    assert np.array_equal(lanes.unpack(total, values.shape[1], width), values.sum(axis=0))


@given(stacks(), st.integers(0, 2**63))
def test_a_mask_of_whole_words_comes_off_again(case: tuple[int, NDArray[np.int64]], seed: int) -> None:
    width, values = case
    packed = lanes.pack(values[0], width)
    mask = np.random.default_rng(seed).integers(0, 2**64, len(packed), np.uint64, endpoint=False)
    assert np.array_equal(packed + mask - mask, packed)
    assert np.array_equal(lanes.unpack(packed + mask - mask, values.shape[1], width), values[0])


@pytest.mark.parametrize("width", WIDTHS)
def test_both_ends_of_the_range_fit_in_every_lane(width: int) -> None:
    half = 1 << (width - 1)
    values = np.resize(np.array([-half, half - 1, -1, 0, 1, -half, -half]), 3 * (64 // width) + 1)
    assert np.array_equal(lanes.unpack(lanes.pack(values, width), len(values), width), values)


@pytest.mark.parametrize("width", [4, 6, 8, 16])
def test_a_lane_that_leaves_its_range_wraps_and_moves_its_upper_neighbour_by_one(width: int) -> None:
    per_word, half = 64 // width, 1 << (width - 1)
    values = np.zeros(per_word, np.int64)
    values[1] = half + 3
    expected = np.zeros(per_word, np.int64)
    expected[1], expected[2] = 3 - half, 1
    assert np.array_equal(lanes.unpack(lanes.pack(values, width), per_word, width), expected)


@pytest.mark.parametrize("turns", [-20, -1, 2, 7])
def test_and_by_more_if_it_has_gone_round_more_often(turns: int) -> None:
    values = np.zeros(8, np.int64)
    values[1] = 256 * turns + 5
    assert lanes.unpack(lanes.pack(values, 8), 8, 8).tolist() == [0, 5, turns, 0, 0, 0, 0, 0]


def test_addends_may_leave_the_range_if_their_sum_does_not() -> None:
    """So nothing is gained by clipping them: it would only change sums that come back exact."""
    values = np.array([5000, -5000, 127, 0, 300, 1, -1, 0]), np.array([-4990, 4900, -20, 0, -428, 0, 0, 9])
    packed = lanes.pack(values[0], 8) + lanes.pack(values[1], 8)
    assert lanes.unpack(packed, 8, 8).tolist() == (values[0] + values[1]).tolist()


def test_words_hold_as_many_lanes_as_fit() -> None:
    assert [lanes.words(120, width) for width in (4, 5, 6, 8, 16, 32)] == [8, 10, 12, 15, 30, 60]
    assert [lanes.words(n, 6) for n in (0, 1, 10, 11)] == [0, 1, 1, 2]
    assert lanes.pack(np.array([1, -2, 3]), 32).tolist() == [1 + 2**32 * 3, 2**64 - 2]
