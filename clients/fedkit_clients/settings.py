"""The settings of local training: what both trainers read from Task.settings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import ConfigError
from fedkit.messages import Settings
from fedkit.seeds import stream


def _setting(default: Any, doc: str, low: float = 0, below: float = math.inf) -> Any:
    return field(default=default, metadata={"doc": doc, "low": low, "below": below})


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How a client trains; one field per key of the scenario's [train].

    A client with n examples plans `steps` optimiser steps, or epochs * ceil(n / batch) of them, and
    does max(1, round(work * planned)). Gradients go through Strategy.correct, then clipping, then
    weight decay, momentum and the step.
    """

    epochs: int = _setting(1, "passes over the client's data", low=1)
    steps: int = _setting(0, "optimiser steps; above 0 it overrides epochs")
    batch: int = _setting(32, "examples per step; 0 takes all of the client's at once")
    lr: float = _setting(0.1, "learning rate")
    momentum: float = _setting(0.0, "momentum of SGD, in [0, 1)", below=1)
    weight_decay: float = _setting(0.0, "L2 penalty, as the optimiser defines it")
    optimizer: str = _setting("sgd", "sgd; with torch any optimiser of torch.optim: adam, adamw ...")
    clip: float = _setting(0.0, "largest norm of the gradient of a step; 0 does not clip")

    @classmethod
    def of(cls, settings: Settings) -> TrainSettings:
        """Read what is there, default the rest; other keys belong to the strategy.

        Raises ConfigError naming the key, its range and the value that does not fit.
        """
        return cls(**{key: _checked(key, settings[key]) for key in TRAIN_SETTINGS if key in settings})

    def batch_size(self, examples: int) -> int:
        """Examples per step of a client that holds `examples`."""
        return min(self.batch, examples) or examples

    def without_single_examples(self, examples: int) -> TrainSettings:
        """The same, its batch raised until an epoch ends with no batch of one: batch norm needs two."""
        batch = self.batch_size(examples)
        while batch > 1 and examples % batch == 1:
            batch += 1
        return replace(self, batch=batch)

    def steps_done(self, examples: int, work: float) -> int:
        """Steps that a client with `examples` takes when asked for the share `work`."""
        planned = self.steps or self.epochs * math.ceil(examples / self.batch_size(examples))
        return max(1, round(work * planned))


_FIELDS = {f.name: f for f in fields(TrainSettings)}
TRAIN_SETTINGS: Mapping[str, str] = {name: f.metadata["doc"] for name, f in _FIELDS.items()}
"""Every key of [train] with its one-line documentation."""


def _checked(key: str, value: object) -> Any:
    """`value` if it suits `key`, else ConfigError."""
    default, meta = _FIELDS[key].default, _FIELDS[key].metadata
    if isinstance(default, str):
        if isinstance(value, str):
            return value
        raise ConfigError(f"train.{key} must be a name, not {value!r}")
    whole = isinstance(default, int)
    if isinstance(value, int | np.integer if whole else int | float | np.number) and not isinstance(
        value, bool
    ):
        number = int(value) if whole else float(value)
        if meta["low"] <= number < meta["below"]:
            return number
    what = "a whole number" if whole else "a finite number"
    below = "" if meta["below"] == math.inf else f" and below {meta['below']:g}"
    raise ConfigError(f"train.{key} must be {what}, at least {meta['low']:g}{below}, not {value!r}")


def epochs(
    seed: int, examples: int, batch: int, steps: int
) -> Iterator[tuple[NDArray[np.int64] | None, int]]:
    """(order of the examples, steps to take in it) for each epoch until `steps` are done.

    Each epoch is a fresh permutation drawn from `seed`; its last batch may be short. The order is
    None, the natural one, where one batch holds everything.
    """
    per_epoch = math.ceil(examples / batch)
    for epoch, start in enumerate(range(0, steps, per_epoch)):
        order = stream(seed, "epoch", epoch).permutation(examples) if per_epoch > 1 else None
        yield order, min(per_epoch, steps - start)
