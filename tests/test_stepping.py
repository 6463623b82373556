"""A step is called once, checked, and taken only if it leads to numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from fedkit import Grid, RunFailed, Update, WeightedSum
from fedkit.codecs.none import Plain
from fedkit.job import Job
from fedkit.messages import ClientId
from fedkit.stepping import combine, step, weigh
from fedkit.strategy import Strategy
from fedkit.tensors import Layout, State, Tensors, add, flat, scale
from fedkit_strategies import FedAvg

MODEL = flat({"v": np.ones(2, np.float32), "w": np.zeros(3, np.float32)})


def job(strategy: Strategy) -> Job:
    return Job(strategy, Plain(), Plain(), MODEL.layout, Layout((), (), ()), Grid(), {}, 0)


def total(value: float = 1.0) -> WeightedSum:
    made = WeightedSum(MODEL.layout, Grid())
    made.add("ann", Update(scale(MODEL, value), 2.0))
    return made


def test_a_step_gives_a_model_and_a_state_of_its_own_that_refuse_assignment() -> None:
    class Keeps(FedAvg):
        def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
            return add(model, total.mean()), {"last": model}

    model, state, why = step(job(Keeps()), MODEL, {}, total())
    assert why == ""
    assert model["v"].tolist() == [2, 2]
    assert state["last"]["v"].tolist() == [1, 1]
    for tensors in (model, state["last"]):
        assert not any(array.flags.writeable for array in tensors.values())
    assert MODEL.vector.flags.writeable


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_step_to_no_numbers_leaves_model_and_state_and_names_the_tensor(bad: float) -> None:
    class Explodes(FedAvg):
        def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
            return {**model, "w": model["w"] + np.float32(bad)}, {"new": {}}

    model, state, why = step(job(Explodes()), MODEL, {"old": {}}, total())
    assert model is MODEL
    assert list(state) == ["old"]
    assert why.startswith("strategy Explodes.step made a model that is not finite in tensor 'w': lower")


def test_a_step_beyond_float32_is_not_finite_and_no_warning() -> None:
    class Wide(FedAvg):
        def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
            return {n: a.astype(np.float64) + 1e300 for n, a in model.items()}, state

    assert "not finite in tensor 'v'" in step(job(Wide()), MODEL, {}, total())[2]


def test_the_factor_of_staleness_is_a_plain_float() -> None:
    class Half(FedAvg):
        def weigh(self, age: int) -> float:
            return np.float32(0.5)  # type: ignore[return-value] # as users do

    assert type(weigh(Half(), 1)) is float
    assert weigh(FedAvg(), 3) == 0.5


def test_a_combined_sum_has_the_layout_it_was_given() -> None:
    class Other(FedAvg):
        def combine(self, updates: Sequence[tuple[ClientId, Update]], zero: WeightedSum) -> WeightedSum:
            return WeightedSum(Layout(("x",), ((1,),), ("float32",)), Grid())

    zero = WeightedSum(MODEL.layout, Grid())
    assert combine(FedAvg(), [("ann", Update(MODEL, 1.0))], zero).clients == 1
    with pytest.raises(RunFailed, match=r"strategy Other\.combine returned .*, not a WeightedSum made from"):
        combine(Other(), [], zero)
