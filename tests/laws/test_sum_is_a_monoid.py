"""WeightedSum is a commutative monoid, to the bit: order, grouping and stacking change nothing."""

from __future__ import annotations

from functools import reduce

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedkit.aggregate import Grid, WeightedSum
from fedkit.messages import Update
from fedkit.tensors import Layout, Tensors

GRID = Grid()
Row = tuple[str, Update]
values = st.floats(-256, 256, width=32)


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[WeightedSum, list[Row]]:
    """An empty sum and updates for it, from awkward values."""
    dtype = draw(st.sampled_from(["float32", "float64"]))
    layout = Layout(("w", "b"), ((2, 2), (1,)), (dtype, dtype))
    extras = Layout(("c",), ((2,),), (dtype,)) if draw(st.booleans()) else Layout((), (), ())
    rows: list[Row] = []
    for k in range(draw(st.integers(0, 7))):
        vector = np.array(draw(st.lists(values, min_size=5, max_size=5)), dtype)
        more: Tensors = extras.view(np.full(extras.size, draw(values), extras.dtype))
        names = draw(st.lists(st.sampled_from(["loss", "accuracy", "rare"]), unique=True))
        metrics = {name: draw(st.floats(-1e6, 1e6)) for name in names}
        rows.append((f"c{k}", Update(layout.view(vector), draw(st.floats(0, 1024)), metrics, more)))
    return WeightedSum(layout, GRID, extras), rows


def fresh(like: WeightedSum) -> WeightedSum:
    """An empty sum of the same kind."""
    return WeightedSum(like.layout, like.grid, like.extras_layout)


def summed(zero: WeightedSum, rows: list[Row]) -> WeightedSum:
    """All rows in turn."""
    total = fresh(zero)
    for client, update in rows:
        total.add(client, update)
    return total


def merged(parts: list[WeightedSum], zero: WeightedSum) -> WeightedSum:
    """The parts, merged in turn into an empty sum."""

    def join(a: WeightedSum, b: WeightedSum) -> WeightedSum:
        a.merge(b)
        return a

    return reduce(join, parts, fresh(zero))


def bits(total: WeightedSum) -> tuple[object, ...]:
    """All that can be seen of a sum, to the bit; metrics with the order of their names."""
    mean = total.mean().vector.tobytes() if total.weight else b""
    return (
        total.total.tobytes(),
        total.extras.vector.tobytes(),
        total.weight_integer,
        total.clients,
        mean,
        [(name, value.hex()) for name, value in total.metrics.items()],
    )


@given(cohorts(), st.randoms(use_true_random=False))
def test_any_order_of_arrival(case: tuple[WeightedSum, list[Row]], random: object) -> None:
    zero, rows = case
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert bits(summed(zero, shuffled)) == bits(summed(zero, rows))


@given(cohorts(), st.data())
def test_any_grouping_on_any_number_of_workers(
    case: tuple[WeightedSum, list[Row]], data: st.DataObject
) -> None:
    zero, rows = case
    workers = data.draw(st.integers(1, 4))
    parts: list[list[Row]] = [[] for _ in range(workers)]
    for row in rows:
        parts[data.draw(st.integers(0, workers - 1))].append(row)
    order = data.draw(st.permutations(parts))
    assert bits(merged([summed(zero, part) for part in order], zero)) == bits(summed(zero, rows))


@given(cohorts())
def test_merging_is_associative_and_zero_is_neutral(case: tuple[WeightedSum, list[Row]]) -> None:
    zero, rows = case
    a, b, c = (summed(zero, rows[k::3]) for k in range(3))
    left = merged([merged([a, b], zero), c], zero)
    right = merged([a, merged([b, c], zero)], zero)
    assert bits(left) == bits(right)
    assert bits(merged([fresh(zero), a, fresh(zero)], zero)) == bits(a)


@given(cohorts())
def test_a_stack_is_its_rows(case: tuple[WeightedSum, list[Row]]) -> None:
    zero, rows = case
    bare = WeightedSum(zero.layout, zero.grid)
    plain = [(c, Update(u.delta, u.weight, u.metrics)) for c, u in rows]
    stack = np.array([bare.layout.flatten(u.delta) for _, u in plain], bare.layout.dtype)
    total = fresh(bare)
    total.add_stacked(
        [c for c, _ in plain],
        stack.reshape(len(plain), bare.layout.size),
        [u.weight for _, u in plain],
        [u.metrics for _, u in plain],
    )
    assert bits(total) == bits(summed(bare, plain))


@given(cohorts())
def test_adding_changes_no_update(case: tuple[WeightedSum, list[Row]]) -> None:
    zero, rows = case
    before = [zero.layout.flatten(u.delta).tobytes() for _, u in rows]
    summed(zero, rows)
    assert [zero.layout.flatten(u.delta).tobytes() for _, u in rows] == before
