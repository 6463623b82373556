"""Local training: what a user brings (Workload) and what runs it (Trainer)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np

from fedkit.errors import ConfigError, nearest, shown
from fedkit.messages import ClientId, Metrics, Pass, Task, Trained
from fedkit.tensors import Array, Layout, Tensors

Correct: TypeAlias = Callable[[Array, Array, Array, Mapping[str, Array]], Array]


class Trainer(Protocol):
    """Trains and evaluates on one client's data. Deterministic in task.seed."""

    @property
    def examples(self) -> int:
        """Number of training examples the client holds."""
        ...

    def train(self, pass_: Pass, task: Task, correct: Correct | None) -> Trained:
        """Train from pass_.start as task.settings say, doing the share task.work of it.

        `correct`, unless None, replaces every trained parameter's gradient g by
        correct(g, parameter, anchor, extra). The delta names exactly the tensors of pass_.start.
        """
        ...

    def evaluate(self, model: Tensors) -> tuple[Metrics, int]:
        """Metrics of `model` on the client's own held-out data (or all of it), and its size."""
        ...


@runtime_checkable
class BatchTrainer(Protocol):
    """Trains several clients in one computation; an engine may use it for a whole cohort."""

    def train_many(
        self, passes: Sequence[Pass], tasks: Sequence[Task], correct: Correct | None
    ) -> Sequence[Trained]:
        """As Trainer.train for each client, in order; equal to it within rounding."""
        ...


class Workload(Protocol):
    """Model, data and loss. What `workload = "FILE.py:ATTR"` names.

    Optional attributes: `frozen` (names of tensors that never train and never travel), `max_weight`
    (the largest weight a client may have, for the grid of the sum), `metric_names` (of its trainers;
    secure sums carry no others, and loss and accuracy where it does not say), `train_settings` (key ->
    one line, the settings of [train] it knows), `check_train(settings)` (ConfigError on wrong ones),
    `label_counts()` and `class_names` (for the report), `fingerprint()` (a string that is another
    when the data are: a run is then not continued on other data).

    Models that it is handed are read-only, and so are those that trainers are handed.
    """

    def init(self, seed: int) -> Tensors:
        """The whole initial model, buffers and frozen weights included."""
        ...

    def clients(self) -> Sequence[ClientId]:
        """All registered clients."""
        ...

    def trainer(self, client: ClientId) -> Trainer:
        """The trainer on that client's data."""
        ...

    def evaluate(self, model: Tensors) -> Metrics:
        """Metrics of the whole model on the server's test data; empty if it has none."""
        ...


def frozen(workload: Workload) -> Collection[str]:
    """Names of the workload's frozen tensors; ConfigError unless they are a collection of strings."""
    names: Collection[str] = getattr(workload, "frozen", ())
    fits = isinstance(names, Collection) and not isinstance(names, str | bytes)
    if not fits or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"the workload's frozen is {shown(names)}: give a list of the names of tensors, as in ['embed']"
        )
    return names


def trained_part(model: Tensors, frozen: Collection[str]) -> Tensors:
    """The tensors that local training changes and that are averaged: floating, not frozen.

    Floating statistics (batch-norm means and variances) are among them; integer buffers keep the
    initial value everywhere.
    """
    return {n: a for n, a in model.items() if a.dtype.kind == "f" and n not in frozen}


def travelling(model: Tensors, frozen: Collection[str], shared: Callable[[str], bool]) -> Layout:
    """The layout of what travels: floating tensors that are neither frozen nor kept by clients."""
    unknown = sorted(set(frozen) - model.keys())
    if unknown:
        raise ConfigError(
            f"frozen names {unknown[0]!r}, which the model has not; {nearest(unknown[0], model)}"
        )
    part = {n: a for n, a in trained_part(model, frozen).items() if shared(n)}
    dtypes = {np.dtype(a.dtype).name for a in part.values()}
    if not any(array.size for array in part.values()):
        raise ConfigError(
            "nothing would travel: no tensor of the model is floating, shared, not frozen and not empty"
        )
    if len(dtypes) > 1 or not dtypes <= {"float32", "float64"}:
        raise ConfigError(
            f"the model mixes or uses unsupported floating dtypes ({', '.join(sorted(dtypes))}): "
            "give all its floating tensors float32 or all float64"
        )
    return Layout.of(part)
