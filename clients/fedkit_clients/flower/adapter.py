"""Flower's strategies behind fedkit's interface; strategies.py has one class for each.

A class holds the parameters of the class of its name in flwr.serverapp.strategy and computes nothing: in
every round Flower's object is made anew, given what it knew, and asked by `configure_train` and
`aggregate_train`. So the state is in the checkpoint and not in an object. Sampling, weights, checks and
failures are fedkit's. Flower is imported by the server alone; a device needs the class for its client half.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fedkit.aggregate import WeightedSum
from fedkit.errors import ConfigError
from fedkit.messages import ClientId, Update
from fedkit.strategy import Strategy
from fedkit.tensors import State, Tensors, add
from fedkit_clients.flower.guard import demand_flower
from fedkit_clients.flower.records import WEIGHT, quiet, record, reply, tensors

if TYPE_CHECKING:
    from flwr.app import Message

log = logging.getLogger("fedkit")

ROUNDS = "rounds"
"""The part of the state that counts how often the model was moved."""


@dataclass(frozen=True)
class FlowerStrategy(Strategy):
    """A strategy that needs only the weighted mean, so that secure aggregation stays possible.

    Flower gets one reply: the model moved by the mean. kept: what its object knows from round to round, by
    the names of attributes that hold arrays; all else is made of its parameters and of the model.
    """

    kept: ClassVar[tuple[str, ...]] = ()
    listed: ClassVar[frozenset[str]] = frozenset()
    """Those of `kept` that are lists in the order of the model, not mappings by name."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"strategy.{field.name} = {value}: must be finite")

    @property
    def plugin_name(self) -> str:
        """What a scenario calls it, and the log."""
        kind = type(self)
        ours = kind.__module__.startswith("fedkit_clients.flower.")
        return f"flower:{kind.__name__}" if ours else kind.__name__

    def flower(self) -> Any:
        """Flower's object with these parameters; override it for a Flower strategy of your own."""
        from flwr.serverapp import strategy

        return getattr(strategy, type(self).__name__)(**vars(self))

    def init(self, model: Tensors) -> State:
        demand_flower()
        self._made()
        zeros = {name: {n: np.zeros_like(a) for n, a in model.items()} for name in self.kept}
        return {**zeros, ROUNDS: {ROUNDS: np.array(0)}}

    def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
        moved = add(model, total.mean())
        round = int(state[ROUNDS][ROUNDS]) + 1
        made, after = self._asked(model, state, round, [reply(moved, {WEIGHT: 1.0}, 2)])
        if made is None:
            raise ConfigError(f"strategy {self.plugin_name!r} made no model of the mean of a round")
        return made, {**after, ROUNDS: {ROUNDS: np.array(round)}}

    def _made(self) -> Any:
        """Flower's object, that leaves sampling to others."""
        with quiet():
            made = self.flower()
        made.fraction_train = 0.0
        return made

    def _asked(
        self, model: Tensors, state: State, round: int, replies: Sequence[Message]
    ) -> tuple[Tensors | None, State]:
        """What Flower makes of the replies, None if it says nothing, and what it knows afterwards."""
        from flwr.app import ConfigRecord

        made = self._made()
        for name in self.kept:
            known = dict(state[name])
            setattr(made, name, [known[n] for n in model] if name in self.listed else known)
        with quiet():
            made.configure_train(round, record(model), ConfigRecord(), None)
            arrays, _ = made.aggregate_train(round, replies)
        after = {name: _named(getattr(made, name), model) for name in self.kept}
        return (_like(model, tensors(arrays)) if arrays is not None else None), after


def _named(known: Any, model: Tensors) -> Tensors:
    """What Flower keeps, by the names of the model; None is zeros."""
    if known is None:
        return {name: np.zeros_like(array) for name, array in model.items()}
    return _like(model, known if isinstance(known, Mapping) else dict(zip(model, known, strict=True)))


def _like(model: Tensors, made: Tensors) -> Tensors:
    """The same in the order and dtypes of the model: numpy's scalars make some of Flower's float64."""
    return {name: np.asarray(made[name], array.dtype) for name, array in model.items()}


@dataclass(frozen=True)
class EachUpdate(FlowerStrategy):
    """A strategy that must see every update. Flower gets the deltas, as if the model were zero.

    All of these rules commute with adding one vector to all models, so the model moves by what Flower makes
    of the deltas, which float32 holds more exactly than their sums with the model.
    """

    needs_each_update: ClassVar[bool] = True

    def init(self, model: Tensors) -> State:
        if self.kept:
            raise ConfigError(f"strategy {self.plugin_name!r}: one that sees each update keeps nothing")
        super().init(model)
        return {}

    def combine(self, updates: Sequence[tuple[ClientId, Update]], zero: WeightedSum) -> WeightedSum:
        in_order = sorted(updates, key=lambda pair: pair[0])  # Krum breaks ties by order
        replies = [
            reply(update.delta, figures, 2 + number)
            for number, (client, update) in enumerate(in_order)
            if (figures := self._figures(client, update)) is not None
        ]
        origin = zero.layout.view(np.zeros(zero.layout.size, zero.layout.dtype))
        made = self._asked(origin, {}, 1, replies)[0] if replies else None
        if made is None:
            log.warning("strategy %s made no model of %d updates", self.plugin_name, len(replies))
            return zero
        for client, update in updates:
            zero.add(client, replace(update, delta=made))
        return zero

    def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
        return add(model, total.mean()), state

    def figures(self, client: ClientId, update: Update) -> Mapping[str, float]:
        """What Flower is told of an update beside its arrays; ValueError, saying why, leaves it out."""
        if update.weight <= 0:
            raise ValueError("its weight is 0")
        return {WEIGHT: update.weight}

    def _figures(self, client: ClientId, update: Update) -> Mapping[str, float] | None:
        try:
            return self.figures(client, update)
        except ValueError as error:
            log.warning("strategy %s leaves out client %s: %s", self.plugin_name, client, error)
            return None
