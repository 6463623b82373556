"""The defaults of Strategy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from fedkit.aggregate import Grid, WeightedSum
from fedkit.messages import Key, Task, Trained, Update
from fedkit.strategy import Strategy
from fedkit.tensors import Array, Layout, State, Tensors

MODEL = {"w": np.arange(3, dtype=np.float32)}
TASK = Task(Key("job", 0, "train", "", 0, "a"), 1, MODEL, {}, {}, 0, 0.5, 60.0)


@dataclass(frozen=True)
class Least(Strategy):
    """The least a strategy can be."""

    def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
        return model, state


@dataclass(frozen=True)
class Correcting(Least):
    """One that corrects."""

    def correct(self, grad: Array, weight: Array, anchor: Array, extra: Mapping[str, Array]) -> Array:
        return grad


def test_step_alone_is_abstract() -> None:
    with pytest.raises(TypeError, match="step"):
        Strategy()  # type: ignore[abstract]
    assert Strategy.__abstractmethods__ == {"step"}


def test_defaults_ask_for_nothing() -> None:
    least = Least()
    assert (least.init(MODEL), least.settings({}, 0), least.context({}), least.extras(MODEL)) == (
        {},
        {},
        {},
        {},
    )
    assert (least.needs_each_update, least.accepts_partial_work, least.shared("w")) == (False, False, True)


def test_the_default_is_one_pass_from_the_model() -> None:
    (only,) = Least().begin(TASK, {})
    assert only.start is MODEL
    assert only.anchor is MODEL
    assert only.extra == {}


def test_the_default_sends_the_last_pass_weighted_by_examples() -> None:
    memory = {"m": MODEL}
    first, last = Trained({"w": np.ones(3)}, 1, 5.0, {}), Trained(MODEL, 2, 7.0, {"loss": 0.5})
    update, after = Least().finish(TASK, memory, [first, last])
    assert update.delta is MODEL
    assert (update.weight, update.metrics, update.work) == (7.0, {"loss": 0.5}, 0.5)
    assert after is memory


def test_staleness_is_one_over_the_root_of_one_plus_age() -> None:
    assert [Least().weigh(age) for age in (0, 3, 8)] == [1.0, 0.5, pytest.approx(1 / 3)]


def test_combine_adds_all() -> None:
    zero = WeightedSum(Layout.of(MODEL), Grid())
    total = Least().combine([("a", Update(MODEL, 1.0)), ("b", Update(MODEL, 3.0))], zero)
    assert (total.clients, total.weight) == (2, 4.0)


def test_trainers_can_tell_whether_correct_is_overridden() -> None:
    assert (Least().corrects, Correcting().corrects) == (False, True)
    grad = np.ones(2)
    assert Least().correct(grad, grad, grad, {}) is grad
