"""The exact sum: its grid, its refusals, and what comes out."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.aggregate import METRIC_LIMIT, Grid, WeightedSum
from fedkit.errors import ConfigError, LayoutError, UpdateRefused
from fedkit.messages import Update
from fedkit.tensors import Layout, Tensors

LAYOUT = Layout(("weight", "bias"), ((2, 2), (3,)), ("float32", "float32"))
EXTRAS = Layout(("control",), ((2,),), ("float32",))


def delta(*values: float) -> Tensors:
    """Seven entries; those not given are zero."""
    vector = np.zeros(7, np.float32)
    vector[: len(values)] = values
    return LAYOUT.view(vector)


def zero(grid: Grid | None = None) -> WeightedSum:
    """An empty sum with one extra."""
    return WeightedSum(LAYOUT, grid or Grid(), EXTRAS)


def extras(value: float = 0.0) -> Tensors:
    """The one extra."""
    return {"control": np.full(2, value, np.float32)}


def contents(total: WeightedSum) -> tuple[object, ...]:
    """Every bit of a sum."""
    return (
        total.total.tobytes(),
        total.extras.vector.tobytes(),
        total.weight_integer,
        total.clients,
        total._metrics,
    )


@pytest.mark.parametrize(
    ("grid", "limit_bits", "fraction"),
    [
        (Grid(2.0**10, 2.0**8, 2**12), 50, 32),
        (Grid(1.0, 2.0**6, 2**12), 50, 44),
        (Grid(1.0, 2.0**6, 2**20), 42, 36),
        (Grid(600.0, 2.0**8, 2**12), 50, 32),
        (Grid(2.0**10, 2.0**8, 1), 50, 32),
        (Grid(2.0**10, 2.0**8, 2**12 + 1), 49, 31),
        (Grid(2.0**-6, 2.0**8, 2**12), 50, 42),
    ],
)
def test_bits_of_the_grid(grid: Grid, limit_bits: int, fraction: int) -> None:
    assert (grid.limit_bits, grid.limit, grid.fraction) == (limit_bits, 2**limit_bits, fraction)


@given(st.floats(2.0**-10, 2.0**20), st.floats(2.0**-10, 2.0**12), st.integers(1, 2**24))
def test_n_max_updates_of_the_largest_size_never_wrap(weight: float, size: float, n_max: int) -> None:
    try:
        grid = Grid(weight, size, n_max)
    except ConfigError:
        return
    assert n_max * math.ldexp(weight * size, grid.fraction) < 2**63
    assert n_max * math.ldexp(weight, grid.weight_fraction) < 2**63
    assert math.ldexp(weight * size, grid.fraction) <= 1.001 * grid.limit <= 1.5 * 2**50 * 1.001


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"max_weight": 0.0}, "aggregate.max_weight = 0.0: must be in"),
        ({"max_weight": math.inf}, "aggregate.max_weight = inf: must be in"),
        ({"max_weight": math.nan}, "aggregate.max_weight = nan: must be in"),
        ({"max_weight": "much"}, "aggregate.max_weight = 'much': must be in"),
        ({"max_weight": 1e308, "max_delta": 1e308}, "aggregate.max_weight = 1e\\+308: must be in"),
        ({"max_weight": 1e-300, "max_delta": 1e-300}, "aggregate.max_weight = 1e-300: must be in"),
        ({"max_delta": -1.0}, "aggregate.max_delta = -1.0: must be in"),
        ({"max_delta": 10**400}, "aggregate.max_delta = an integer of 1329 bits: must be in"),
        ({"n_max": 0}, "n_max = 0: must be in"),
        ({"n_max": 2**60}, "n_max = .*: must be in"),
        ({"max_weight": 2.0**40}, "max_weight = 1.09951e.12 leaves 2 bits .* set one of the two lower"),
    ],
)
def test_a_grid_that_cannot_be_used_is_refused(bad: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Grid(**bad)


def test_golden_integers() -> None:
    total = zero()
    total.add("a", Update(delta(1.0, -0.5, 2.0**-33, 3 * 2.0**-33), 2.0, {}, extras(0.25)))
    assert total.total.tolist() == [2**33, -(2**32), 1, 3, 0, 0, 0]
    assert total.weight_integer == 2 * 2**40
    assert total.extras["control"].tolist() == [0.25, 0.25]


def test_halves_are_rounded_to_even() -> None:
    into = np.zeros(5, np.int64)
    Grid().quantise(np.array([0.5, 1.5, 2.5, -0.5, -1.5]) * 2.0**-32, 1.0, into)
    assert into.tolist() == [0, 2, 2, 0, -2]


@given(st.lists(st.floats(-256, 256, width=32), min_size=1, max_size=40), st.floats(0, 1024, width=32))
def test_quantise_rounds_the_exact_product(values: list[float], weight: float) -> None:
    grid = Grid()
    into = np.zeros(len(values), np.int64)
    grid.quantise(np.array(values, np.float32), weight, into)
    exact = [round(Fraction(value) * Fraction(weight) * 2**grid.fraction) for value in values]
    assert into.tolist() == exact


def test_quantise_takes_vectors_of_any_length_and_stride() -> None:
    values = np.arange(40_000, dtype=np.float32) / 256
    for vector in (values[:0], values[:1], values[:8192], values[:8193], values[::3]):
        into = np.zeros(vector.size, np.int64)
        Grid().quantise(vector, 0.5, into)
        assert into.tolist() == (vector.astype(np.float64) * 2**31).astype(np.int64).tolist()


@st.composite
def weighted(draw: st.DrawFn) -> tuple[np.ndarray, list[float]]:
    """Deltas of a few clients and their weights, not all zero."""
    clients = draw(st.integers(1, 6))
    rows = st.lists(st.floats(-256, 256, width=32), min_size=7, max_size=7)
    weights = st.lists(st.floats(0, 1024, width=32), min_size=clients, max_size=clients)
    values = draw(st.lists(rows, min_size=clients, max_size=clients))
    return np.array(values, np.float32), draw(weights.filter(lambda w: sum(w) > 2.0**-10))


@given(weighted())
def test_the_mean_is_within_a_grid_step_of_the_float64_mean(case: tuple[np.ndarray, list[float]]) -> None:
    deltas, weights = case
    total = WeightedSum(Layout(LAYOUT.names, LAYOUT.shapes, ("float64",) * 2), Grid())
    for k, weight in enumerate(weights):
        wide = total.layout.view(deltas[k].astype(np.float64))
        total.add(str(k), Update(wide, weight))
    expected = np.array(weights) @ deltas.astype(np.float64) / sum(weights)
    step = len(weights) * 2.0**-33 / sum(weights)
    weight_error = len(weights) * 2.0**-41 / sum(weights)  # a weight of 1e-40 is not on the grid
    slack = step + 256 * weight_error + 1e-12 * 256
    assert np.abs(total.mean().vector - expected).max() <= slack
    assert total.weight == pytest.approx(sum(weights), abs=len(weights) * 2.0**-41)


def test_weighted_mean_extras_metrics_by_hand() -> None:
    total = zero()
    total.add("a", Update(delta(1.0), 3.0, {"loss": 1.0, "rare": 4.0}, extras(1.0)))
    total.add("b", Update(delta(5.0), 1.0, {"loss": 5.0}, extras(2.0)))
    assert total.mean()["weight"][0, 0] == 2.0
    assert total.extras["control"].tolist() == [3.0, 3.0]
    assert dict(total.metrics) == {"loss": 2.0, "rare": 4.0}
    assert (total.weight, total.clients) == (4.0, 2)


def test_weights_are_rounded_to_float32() -> None:
    total = zero()
    total.add("a", Update(delta(1.0), 0.1, {}, extras()))
    assert total.weight == float(np.float32(0.1))
    assert total.mean()["weight"][0, 0] == 1.0


def test_the_dtype_of_the_mean_is_that_of_the_layout() -> None:
    for dtype in ("float32", "float64"):
        total = WeightedSum(Layout(("w",), ((1,),), (dtype,)), Grid())
        total.add("a", Update({"w": np.ones(1, dtype)}, 1.0))
        assert total.mean()["w"].dtype == np.dtype(dtype)


def test_a_sum_without_weight_has_no_mean() -> None:
    total = zero()
    with pytest.raises(ZeroDivisionError):
        total.mean()
    total.add("a", Update(delta(1.0), 0.0, {"loss": 1.0}, extras()))
    with pytest.raises(ZeroDivisionError):
        total.mean()
    assert dict(total.metrics) == {}


def bad_updates() -> list[tuple[Update, str, str]]:
    """Updates to refuse, the subject that the error must name, and words of its reason."""

    def wrong(tensors: Tensors, more: Tensors | None = None) -> Update:
        return Update(tensors, 1.0, {}, extras() if more is None else more)

    good = dict(delta())
    nan, inf, far = delta(0, 0, 0, 0, math.nan), delta(math.inf), delta(0, 0, 0, 0, 0, -256.5)
    return [
        (wrong(nan), "bias", "holds nan"),
        (wrong(inf), "weight", "holds inf"),
        (wrong(far), "bias", "beyond the run's limit 256"),
        (wrong({"weight": good["weight"]}), "bias", "is missing"),
        (wrong({**good, "more": np.zeros(1, np.float32)}), "more", "not in the layout"),
        (wrong({**good, "bias": np.zeros(4, np.float32)}), "bias", "has shape (4,), agreed was (3,)"),
        (wrong({**good, "bias": np.zeros(3, np.int64)}), "bias", "not a floating one"),
        (wrong(delta(), {"control": np.full(2, math.nan, np.float32)}), "control", "holds nan"),
        (wrong(delta(), {}), "control", "is missing"),
        (Update(delta(), -1.0, {}, extras()), "weight", "not negative"),
        (Update(delta(), math.nan, {}, extras()), "weight", "finite"),
        (Update(delta(), 1025.0, {}, extras()), "weight", "above the run's maximum 1024"),
        (Update(delta(), 1.0, {"loss": math.nan}, extras()), "loss", "finite"),
        (Update(delta(), 1.0, {"loss": 2 * METRIC_LIMIT}, extras()), "loss", "within"),
    ]


@pytest.mark.parametrize(("update", "subject", "reason"), bad_updates())
def test_a_refusal_names_client_and_subject_and_leaves_the_sum(
    update: Update, subject: str, reason: str
) -> None:
    total = zero()
    total.add("good", Update(delta(1.0, 2.0), 2.0, {"loss": 1.0}, extras(1.0)))
    before = contents(total)
    with pytest.raises(UpdateRefused) as caught:
        total.add("writer-7", update)
    assert (caught.value.client, caught.value.subject) == ("writer-7", subject)
    assert "'writer-7'" in str(caught.value)
    assert reason in str(caught.value)
    assert contents(total) == before


def test_the_largest_update_is_welcome() -> None:
    total = zero()
    total.add("a", Update(delta(256.0, -256.0), 1024.0, {"loss": METRIC_LIMIT}, extras(256.0)))
    assert total.total[:2].tolist() == [2**50, -(2**50)]
    assert total.mean()["weight"].reshape(-1)[:2].tolist() == [256.0, -256.0]


def test_there_is_room_for_n_max_updates() -> None:
    grid = Grid(n_max=3)
    total, other = zero(grid), zero(grid)
    for client in "ab":
        total.add(client, Update(delta(256.0), 1024.0, {}, extras()))
        other.add(client, Update(delta(256.0), 1024.0, {}, extras()))
    before = contents(total)
    with pytest.raises(UpdateRefused, match="room for"):
        total.merge(other)
    with pytest.raises(UpdateRefused, match="n_max = 3"):
        total.add_stacked(["c", "d"], np.zeros((2, 7), np.float32), [1.0, 1.0])
    assert contents(total) == before
    total.add("c", Update(delta(), 1.0, {}, extras()))
    with pytest.raises(UpdateRefused, match="'d'"):
        total.add("d", Update(delta(), 1.0, {}, extras()))


def test_a_bad_row_refuses_the_whole_stack() -> None:
    total = zero()
    deltas = np.ones((3, 7), np.float32)
    deltas[1, 6] = np.nan
    before = contents(total)
    with pytest.raises(UpdateRefused) as caught:
        total.add_stacked(["a", "b", "c"], deltas, [1.0, 1.0, 1.0])
    assert (caught.value.client, caught.value.subject) == ("b", "bias")
    assert contents(total) == before


def test_a_stack_of_another_shape_is_refused() -> None:
    for deltas, weights in ((np.ones((2, 6), np.float32), [1.0, 1.0]), (np.ones((2, 7), np.float32), [1.0])):
        with pytest.raises(LayoutError):
            zero().add_stacked(["a", "b"], deltas, weights)


def test_sums_of_another_layout_or_grid_are_not_merged() -> None:
    for other in (zero(Grid(n_max=7)), WeightedSum(LAYOUT, Grid()), WeightedSum(EXTRAS, Grid(), EXTRAS)):
        with pytest.raises(LayoutError, match="another layout or grid"):
            zero().merge(other)


def test_the_integers_are_read_only() -> None:
    total = zero()
    with pytest.raises(ValueError, match="read-only"):
        total.total[0] = 1


def test_a_sum_from_integers_is_the_sum() -> None:
    total = WeightedSum(LAYOUT, Grid())
    total.add("a", Update(delta(1.0, 2.0), 3.0))
    made = WeightedSum.of(LAYOUT, Grid(), total.total.copy(), total.weight_integer, 1)
    assert made.mean().vector.tobytes() == total.mean().vector.tobytes()
    wrongs: list[np.ndarray] = [np.zeros(6, np.int64), np.zeros(7, np.float64)]
    for wrong in wrongs:
        with pytest.raises(LayoutError):
            WeightedSum.of(LAYOUT, Grid(), wrong, 1, 1)
        with pytest.raises(LayoutError, match="extras"):
            WeightedSum.of(LAYOUT, Grid(), total.total.copy(), 1, 1, (EXTRAS, wrong))


@pytest.mark.parametrize("weight", [2.0**-9, 0.25, 1.0, 64.0])
def test_extras_are_as_exact_where_no_weight_reaches_1(weight: float) -> None:
    total = zero(Grid(weight, 256.0, 3))
    for client in "abc":
        total.add(client, Update(delta(), weight, {}, extras(250.0)))
    assert total.extras["control"].tolist() == [750.0, 750.0]


def test_extras_and_metrics_of_a_sum_from_integers() -> None:
    total = zero()
    total.add("a", Update(delta(1.0), 3.0, {"loss": 0.5}, extras(2.0)))
    again = (EXTRAS, total._extras.copy())
    made = WeightedSum.of(LAYOUT, Grid(), total.total.copy(), total.weight_integer, 1, again, total._metrics)
    assert contents(made) == contents(total)
    made.add("b", Update(delta(), 1.0, {"loss": 1.5}, extras()))
    assert made.metrics == {"loss": 0.75}
    assert total.metrics == {"loss": 0.5}
