"""Small and exempt tensors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.codecs import TensorRules
from fedkit.codecs.rules import gather, scatter, split
from fedkit.errors import ConfigError
from fedkit.tensors import Layout

SIZES = st.lists(st.integers(0, 40), max_size=12)


def layout_of(sizes: list[int]) -> Layout:
    return Layout(
        tuple(f"t{i}" for i in range(len(sizes))), tuple((n,) for n in sizes), ("float32",) * len(sizes)
    )


@given(SIZES, st.integers(0, 40))
def test_the_parts_cover_the_vector_once(sizes: list[int], below: int) -> None:
    layout = layout_of(sizes)
    parts = split(TensorRules(below=below), layout)
    vector = np.arange(layout.size, dtype=np.float32)
    out = np.full(layout.size, -1, np.float32)
    scatter(gather(vector, parts.small_at), parts.small_at, out)
    scatter(gather(vector, parts.large_at), parts.large_at, out)
    assert np.array_equal(out, vector)
    assert parts.small.size == len(gather(vector, parts.small_at)) == sum(n for n in sizes if n < below)
    assert parts.large.size == len(gather(vector, parts.large_at))


def test_neighbours_make_one_view() -> None:
    parts = split(TensorRules(below=10), layout_of([20, 30, 5, 3]))
    assert parts.large_at == (slice(0, 50),)
    assert parts.small_at == (slice(50, 58),)
    vector = np.zeros(58, np.float32)
    assert np.shares_memory(gather(vector, parts.large_at), vector)


def test_exempt_tensors_travel_apart() -> None:
    rules = TensorRules(exempt="*.bias+bn?.*")
    apart = {n for n in ("fc.bias", "bn1.weight", "bn.weight", "fc.weight") if rules.apart(n, 10**6)}
    assert apart == {"fc.bias", "bn1.weight"}
    assert rules.apart("fc.weight", 1023)
    assert not rules.apart("fc.weight", 1024)


def test_a_negative_bound_is_refused() -> None:
    with pytest.raises(ConfigError, match="below = -1 must be >= 0"):
        TensorRules(below=-1)
