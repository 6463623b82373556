"""The server's half of a strategy, called and checked: the next model, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fedkit.aggregate import WeightedSum
from fedkit.errors import LayoutError, RunFailed, shown
from fedkit.job import Job
from fedkit.messages import ClientId, Update
from fedkit.strategy import Strategy
from fedkit.tensors import State, Tensors, sealed_copy
from fedkit.usercode import called, returned_state


def step(job: Job, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State, str]:
    """The next model and state, read-only; if the model would not be finite, the old ones and the reason.

    RunFailed, naming the strategy, if it raises or returns anything else.
    """
    name = f"strategy {type(job.strategy).__name__}.step"
    with called(name):
        moved: object = job.strategy.step(model, state, total)
    if not (isinstance(moved, tuple) and len(moved) == 2):
        raise RunFailed(f"{name} returned a {type(moved).__name__}, not (model, state)")
    try:
        made = sealed_copy(moved[0], job.layout)
    except LayoutError as error:
        raise RunFailed(f"{name} made another model: {error}") from error
    after = returned_state(moved[1], name)
    finite = np.isfinite(made.vector)
    if finite.all():
        return made, after, ""
    where = job.layout.locate(int(np.argmin(finite)))
    advice = "lower the learning rate of the strategy or of [train]"
    return model, state, f"{name} made a model that is not finite in tensor {where!r}: {advice}"


def weigh(strategy: Strategy, age: int) -> float:
    """The factor of an update that is so late; RunFailed unless it is finite and not negative."""
    name = f"strategy {type(strategy).__name__}.weigh"
    with called(name):
        factor: object = strategy.weigh(age)
    if not isinstance(factor, int | float | np.number) or not math.isfinite(factor) or factor < 0:
        raise RunFailed(f"{name}({age}) returned {shown(factor)}: it must be finite and not negative")
    return float(factor)


def combine(strategy: Strategy, updates: Sequence[tuple[ClientId, Update]], zero: WeightedSum) -> WeightedSum:
    """The strategy's own sum of all updates; RunFailed if it is none, or of another layout."""
    name = f"strategy {type(strategy).__name__}.combine"
    with called(name):
        made: object = strategy.combine(updates, zero)
    if not isinstance(made, WeightedSum) or made.layout != zero.layout:
        raise RunFailed(
            f"{name} returned {shown(made)}, not a WeightedSum made from the empty one it was given"
        )
    return made
