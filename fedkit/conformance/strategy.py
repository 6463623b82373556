"""The laws of strategies; those of the client half are in client.py."""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Callable, Mapping
from itertools import permutations
from typing import Any, TypeAlias

import numpy as np

from fedkit.conformance.client import CLIENT_LAWS
from fedkit.conformance.laws import (
    Broken,
    demand,
    demand_finite,
    demand_layout,
    demand_state,
    demand_tensors,
    restored,
    run_laws,
    same,
    snapshot,
)
from fedkit.conformance.rehearsal import Case, Rehearsal
from fedkit.errors import ConfigError
from fedkit.strategy import Strategy
from fedkit.tensors import Tensors

ROUNDS = 3

Law: TypeAlias = Callable[[Case], None]


def check_strategy(strategy: Strategy, *, seed: int = 0) -> list[str]:
    """Names of the laws tried; ConformanceError on the first that `strategy` breaks."""
    return run_laws(STRATEGY_LAWS, Case(strategy, seed))


def _frozen_dataclass(case: Case) -> None:
    kind: Any = type(case.strategy)
    parameters = vars(kind).get("__dataclass_params__")  # its own, not those of a base
    is_frozen = parameters is not None and parameters.frozen
    demand(is_frozen, f"{kind.__name__} is not a frozen dataclass: write @dataclass(frozen=True) above it")
    for one in dataclasses.fields(kind):
        value = getattr(case.strategy, one.name)
        plain = value is None or isinstance(value, bool | int | float | str)
        demand(plain, f"field {one.name!r} is {type(value).__name__}: a scenario can set plain values only")


def _pickles(case: Case) -> None:
    twin = pickle.loads(pickle.dumps(case.strategy))  # noqa: S301 - our own bytes
    demand(twin == case.strategy, "pickling and back gives another strategy")
    model = Rehearsal(twin, case.seed).play(1).model
    demand(same(model, case.rehearse(1).model), "after pickling and back it gives another model")


def _travels(case: Case) -> None:
    try:
        case.rehearse()
    except ConfigError as error:
        raise Broken(f"`shared` lets no tensor travel ({error})") from error
    for name in case.rehearse().layout.names:
        demand(case.strategy.shared(name) is True, f"shared({name!r}) is not a bool, or not always the same")


def _settings(case: Case) -> None:
    game = case.rehearse(1)
    settings = case.strategy.settings(game.state, 1)
    demand(isinstance(settings, Mapping), "`settings` does not return a mapping")
    for name, value in settings.items():
        good = isinstance(name, str) and isinstance(value, bool | int | float | str)
        finite = not isinstance(value, float) or math.isfinite(value)
        demand(
            good and finite,
            f"setting {name!r} is {value!r}: only finite numbers, strings and booleans travel",
        )


def _context(case: Case) -> None:
    demand_state(case.strategy.context(case.rehearse(1).state), "context")


def _extras(case: Case) -> None:
    extras = case.strategy.extras(case.rehearse().model)
    demand_tensors(extras, "extras")
    for name, array in extras.items():
        demand(array.dtype.kind == "f", f"extra {name!r} has dtype {array.dtype.name}, not a floating one")
        demand(not array.any(), f"extra {name!r} is not zeros: `extras` gives names, shapes and dtypes")


def _state(case: Case) -> None:
    demand_state(case.rehearse().state, "state of init")
    demand_state(case.rehearse(ROUNDS).state, "state of step")


def _keeps_layout(case: Case) -> None:
    for dtype in ("float32", "float64"):
        game = case.rehearse(0, dtype)
        before = game.layout
        for round in range(ROUNDS):
            game.play(1)
            demand_tensors(game.model, f"the model after round {round}")
            demand_layout(game.model, before, f"the model after round {round} ({dtype})")
            demand_finite(game.model, f"the model after round {round}")


def _step_pure(case: Case) -> None:
    game = case.rehearse(1)
    total = game.gather(game.updates(1))
    given = snapshot((game.model, game.state, total.total.copy()))
    before = snapshot(case.strategy)
    first = case.strategy.step(game.model, game.state, total)
    kept = snapshot(first)
    second = case.strategy.step(game.model, game.state, total)
    demand(same(kept, second), "the same model, state and sum give another result the second time")
    demand(same(kept, first), "the second call changed what the first had returned")
    demand(same(given, (game.model, game.state, total.total)), "`step` changed its arguments")
    demand(before == case.strategy, "`step` changed the strategy's own fields")


def _init_pure(case: Case) -> None:
    game = case.rehearse()
    given = snapshot(game.model)
    first = snapshot(case.strategy.init(game.model))
    demand(same(first, case.strategy.init(game.model)), "the same model gives another state the second time")
    demand(same(given, game.model), "`init` changed the model")


def _checkpoint(case: Case) -> None:
    game, twin = case.rehearse(2), case.rehearse(2)
    twin.state, twin.model = restored(game.state), restored({"model": game.model})["model"]
    total = game.gather(game.updates(2))
    first = case.strategy.step(game.model, game.state, total)
    second = case.strategy.step(twin.model, twin.state, total)
    demand(same(first, second), "a state read back from a checkpoint gives another model")


def _arrival(case: Case) -> None:
    game = case.rehearse(1)
    updates = game.updates(1)
    if case.strategy.needs_each_update:
        overridden = type(case.strategy).combine is not Strategy.combine
        demand(overridden, "needs_each_update is True but `combine` is not overridden")
    first: Tensors | None = None
    for order in permutations(updates):
        model, _ = case.strategy.step(game.model, game.state, game.gather(order))
        first = model if first is None else first
        # combine is given updates sorted by client, so its own rounding may follow their order
        close = all(np.allclose(model[n], first[n], rtol=1e-5, atol=1e-6) for n in first)
        exact = case.strategy.needs_each_update or same(model, first)
        demand(close and exact, "the model depends on the order in which updates arrive")


def _weigh(case: Case) -> None:
    for age in range(10):
        factor = case.strategy.weigh(age)
        good = isinstance(factor, float | int) and math.isfinite(factor) and factor >= 0
        demand(good, f"weigh({age}) is {factor!r}: it must be finite and not negative")


STRATEGY_LAWS: Mapping[str, Law] = {
    "is a frozen dataclass of plain fields": _frozen_dataclass,
    "lets something travel": _travels,
    "init is pure": _init_pure,
    "settings are plain values": _settings,
    "context is named tensors": _context,
    "extras are floating zeros": _extras,
    "state is named tensors": _state,
    "step keeps the model's layout": _keeps_layout,
    "step is pure": _step_pure,
    "state survives a checkpoint": _checkpoint,
    "arrival order does not matter": _arrival,
    "weigh is finite and not negative": _weigh,
    "pickles": _pickles,
    **CLIENT_LAWS,
}
