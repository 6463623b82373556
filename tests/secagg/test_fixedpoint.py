"""The exact encoder: sums of lanes are the sums of what they stand for, and never wrap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedkit.aggregate import Grid
from fedkit.errors import ConfigError
from fedkit.secagg.fixedpoint import LEAST, FixedPoint
from fedkit.seeds import stream

GRID = Grid(max_weight=100.0, max_delta=4.0)
Width = Literal[32, 64]


def encoded(
    point: FixedPoint, vector: NDArray[Any], weight: float, seed: int = 0
) -> NDArray[np.unsignedinteger[Any]]:
    """The lanes of one vector."""
    into: NDArray[np.unsignedinteger[Any]] = np.zeros(vector.size, point.dtype)
    point.encode(vector, weight, stream(seed, "rounding"), into)
    return into


def grids() -> st.SearchStrategy[Grid]:
    """Grids of all sorts, powers of two and others."""
    size = st.floats(2.0**-8, 2.0**12) | st.integers(-8, 12).map(lambda e: 2.0**e)
    return st.builds(Grid, size, size)


clients = st.integers(1, 4096) | st.integers(0, 12).map(lambda e: 1 << e)


def points(grid: Grid, width: Width, count: int) -> FixedPoint:
    """The encoder, or a case to leave out."""
    try:
        return FixedPoint(grid, width, count, grid.max_weight)
    except ConfigError:
        assume(False)
        raise


@given(grids(), st.sampled_from([32, 64]), clients, st.sampled_from([np.float32, np.float64]))
def test_the_most_clients_at_the_extremes_do_not_wrap(
    grid: Grid, width: Width, count: int, dtype: type[np.floating[Any]]
) -> None:
    point = points(grid, width, count)
    extremes = np.array([grid.max_delta, -grid.max_delta, 0.0], dtype)
    weight = float(np.float32(grid.max_weight))
    lanes = [encoded(point, extremes, weight, seed) for seed in range(3)]
    signed = [lane.view(f"int{width}").astype(object) for lane in lanes]
    assert all(abs(int(x)) * count < 2 ** (width - 1) for row in signed for x in row)
    if width == 32:
        assert all(abs(int(x)) <= point.most for row in signed for x in row)
    total = (lanes[0] * lanes[0].dtype.type(count)).astype(point.dtype)  # as adding it so many times
    whole = point.decode(total)
    assert whole.tolist() == [x * count << grid.fraction - point.fraction for x in signed[0]]
    if dtype is np.float64:  # float32 may round the extremes themselves
        assert whole[0] == pytest.approx(count * math.ldexp(weight * grid.max_delta, grid.fraction), rel=0.1)


@pytest.mark.parametrize(
    ("grid", "count", "fraction"),
    [
        (Grid(1024.0, 256.0), 100, 6),
        (Grid(1024.0, 256.0), 128, 5),  # at the extremes 128 clients would just wrap with 6
        (Grid(600.0, 256.0), 100, 7),
        (Grid(1.0, 1.0), 3, 29),
        (Grid(2.0**-8, 2.0**-8), 1, 46),
        (Grid(1024.0, 16.0), 1000, 7),
    ],
)
def test_bits_after_the_point(grid: Grid, count: int, fraction: int) -> None:
    assert FixedPoint(grid, 32, count, grid.max_weight).fraction == fraction
    assert FixedPoint(grid, 64, count, grid.max_weight).fraction == grid.fraction


def test_too_few_bits_are_refused_with_a_bound_that_is_enough() -> None:
    grid = Grid(1024.0, 256.0)
    with pytest.raises(ConfigError) as caught:
        FixedPoint(grid, 32, 1000, 1024.0)
    text = str(caught.value)
    assert text.startswith("secagg.width = 32 with aggregate.max_delta = 256: weights up to 1024 in a sum of")
    assert "leave 3 bits after the point" in text
    assert "set aggregate.max_delta to 130 or lower, or secagg.width to 64" in text
    assert FixedPoint(Grid(1024.0, 130.0), 32, 1000, 1024.0).fraction == LEAST
    assert FixedPoint(grid, 64, 1000, 1024.0).fraction == grid.fraction


@given(grids(), clients)
def test_the_bound_that_is_named_is_enough(grid: Grid, count: int) -> None:
    try:
        FixedPoint(grid, 32, count, grid.max_weight)
    except ConfigError as error:
        named = float(str(error).split("set aggregate.max_delta to ")[1].split(" or lower")[0])
        assert FixedPoint(Grid(grid.max_weight, named), 32, count, grid.max_weight).fraction >= LEAST


@pytest.mark.parametrize(("width", "count"), [(16, 3), (32, 0), (64, 4097), (32, 70_000)])
def test_other_widths_and_more_clients_than_there_is_room_for(width: Any, count: int) -> None:
    with pytest.raises(ConfigError, match=r"secagg\.width|room for 1 to"):
        FixedPoint(Grid(n_max=2**17 if count > 2**16 else 4096), width, count, 1024.0)


floats = st.floats(-4.0, 4.0, width=32)
updates = st.lists(
    st.tuples(st.lists(floats, min_size=5, max_size=5), st.floats(0, 100, width=32)), min_size=1, max_size=6
)


@given(updates)
@settings(deadline=None)
def test_64_bits_are_the_integers_of_the_grid(given_updates: Sequence[tuple[list[float], float]]) -> None:
    point, plain, total = FixedPoint(GRID, 64, 6, 100.0), np.zeros(5, np.int64), np.zeros(5, np.uint64)
    for values, weight in given_updates:
        vector = np.array(values, np.float32)
        GRID.quantise(vector, weight, plain)
        total += encoded(point, vector, weight)
    assert np.array_equal(point.decode(total), plain)
    assert point.bound(6, 100.0) == 0


@given(updates)
@settings(deadline=None)
def test_32_bits_are_their_own_sum_and_near_the_plain_one(
    given_updates: Sequence[tuple[list[float], float]],
) -> None:
    point, plain = FixedPoint(GRID, 32, 6, 100.0), np.zeros(5, np.int64)
    total, integers = np.zeros(5, np.uint32), np.zeros(5, np.int64)
    for seed, (values, weight) in enumerate(given_updates):
        vector = np.array(values, np.float32)
        GRID.quantise(vector, weight, plain)
        lanes = encoded(point, vector, weight, seed)
        total += lanes
        integers += lanes.view(np.int32)
    shift = GRID.fraction - point.fraction
    assert np.array_equal(point.decode(total), integers << shift)
    weights = sum(weight for _, weight in given_updates)
    if weights:
        off = np.abs(point.decode(total) - plain).max() * 2.0**-GRID.fraction / weights
        grid_itself = len(given_updates) * 2.0 ** (-GRID.fraction - 1) / weights
        assert off <= point.bound(len(given_updates), weights) + grid_itself


def test_what_is_cut_off_comes_back_in_the_mean() -> None:
    """Rounding to the nearest would make every one of these zero."""
    point = FixedPoint(GRID, 32, 4000, 100.0)
    vector = np.full(3000, 0.3 * 2.0**-point.fraction)
    total = np.zeros(vector.size, np.uint32)
    for seed in range(400):
        total += encoded(point, vector, 1.0, seed)
    got = point.decode(total) * 2.0**-GRID.fraction / 400 / vector[0]
    spread = math.sqrt(0.7 / 0.3 / 400)
    assert got.mean() == pytest.approx(1, abs=5 * spread / math.sqrt(vector.size))
    assert got.std() == pytest.approx(spread, rel=0.1)
    off = (got - 1) * vector[0]
    assert float(np.sqrt(np.square(off).mean())) <= point.bound(400, 400.0) / (2 * math.sqrt(400))


@given(st.integers(0, 2**64 - 1))
def test_whole_units_stay_as_they_are(seed: int) -> None:
    """So zeros do, and updates of weight 0."""
    point = FixedPoint(GRID, 32, 6, 100.0)
    units = np.array([0, 1, -1, 5, point.most // 2, -point.most // 3], np.float64)
    assert encoded(point, units * 2.0**-point.fraction, 1.0, seed).view(np.int32).tolist() == units.tolist()
    assert not encoded(point, units, 0.0, seed).any()


def test_blocks_leave_no_seam() -> None:
    point = FixedPoint(GRID, 32, 6, 100.0)
    vector = stream(1, "vector").uniform(70_000) * 8 - 4
    got = point.decode(encoded(point, vector, 3.0)) * 2.0**-GRID.fraction
    assert np.abs(got - 3 * vector).max() < 2.0**-point.fraction
    assert encoded(point, vector[:0], 3.0).size == 0
    assert np.array_equal(encoded(point, vector, 3.0), encoded(point, vector, 3.0))
    assert not np.array_equal(encoded(point, vector, 3.0), encoded(point, vector, 3.0, seed=1))


def test_other_clients_and_entries_are_rounded_independently() -> None:
    point = FixedPoint(GRID, 32, 6, 100.0)
    half = np.full(20_000, 0.5 * 2.0**-point.fraction)
    a, b = (encoded(point, half, 1.0, seed).astype(float) for seed in (1, 2))
    assert abs(float(np.corrcoef(a, b)[0, 1])) < 0.05
    assert abs(float(np.corrcoef(a[1:], a[:-1])[0, 1])) < 0.05
