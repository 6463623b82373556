"""The largest entries: selection and positions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fedkit.codecs import gaps, top
from fedkit.errors import WireError


@given(
    arrays(np.float32, st.integers(1, 300), elements=st.sampled_from([0.0, 1.0, -1.0, 2.0, -3.5, 1e-40])),
    st.integers(1, 300),
)
def test_the_positions_are_those_of_a_stable_sort(x: NDArray[np.float32], k: int) -> None:
    k = min(k, x.size)
    expected = np.sort(np.argsort(-np.abs(x), kind="stable")[:k])
    assert np.array_equal(top.positions(x, k), expected)


@pytest.mark.parametrize("k", [1, 7, 1000, 99_999])
def test_a_misleading_sample_changes_nothing(k: int) -> None:
    """Every sixth entry is in the sample: it sees the largest ones only, or none of them."""
    for offset in (0, 1):
        x = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
        x[offset::6] *= 100
        expected = np.sort(np.argsort(-np.abs(x), kind="stable")[:k])
        assert np.array_equal(top.positions(x, k), expected)


@given(
    st.integers(1, 5000), st.floats(2**-16, 1), st.sampled_from(["front", "back", "even", "random", "ends"])
)
def test_lengths_are_bounded_however_positions_lie(d: int, share: float, kind: str) -> None:
    k = top.count(d, share)
    at = {
        "front": np.arange(k),
        "back": np.arange(d - k, d),
        "even": np.arange(k) * (d // k),
        "random": np.sort(np.random.default_rng(d).permutation(d)[:k]),
        "ends": np.concatenate([np.arange(k // 2), np.arange(d - (k - k // 2), d)]),
    }[kind]
    signs = np.where(np.arange(k) % 3, 1, -1)
    data = gaps.encode(at, signs)
    assert len(data) <= top.max_len(d, k)
    pieces = list(top.decode(memoryview(data), d, k))
    assert np.array_equal(np.concatenate([made for made, _ in pieces]), at)
    assert np.array_equal(np.concatenate([got for _, got in pieces]), signs)


def test_random_positions_cost_their_entropy() -> None:
    d = 1 << 20
    at = np.flatnonzero(np.random.default_rng(0).random(d) < 0.01)
    size = len(gaps.encode(at, np.ones(len(at), np.int64)))
    assert 8 * size <= 1.03 * top.entropy(d, len(at))
    assert top.entropy(d, 0) == top.entropy(d, d) == 0


def test_counts() -> None:
    assert [top.count(d, 0.01) for d in (0, 1, 149, 151, 10_000)] == [0, 1, 1, 2, 100]
    assert top.max_len(0, 0) == len(gaps.encode(np.empty(0, np.int64), np.empty(0, np.int64)))
    assert math.isclose(top.entropy(2, 1), 2)


def test_another_count_or_a_magnitude_is_refused() -> None:
    data = gaps.encode(np.arange(3), np.ones(3, np.int64))
    with pytest.raises(WireError, match="3 positions, 4 are due"):
        list(top.decode(memoryview(data), 100, 4))
    with pytest.raises(WireError, match="too many"):
        list(top.decode(memoryview(data + b"\0"), 100, 3))
    with pytest.raises(WireError, match="a magnitude where a sign is due"):
        list(top.decode(memoryview(gaps.encode(np.arange(3), np.array([1, 2, 1]))), 100, 3))
