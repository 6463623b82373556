"""A federated algorithm: its server half and its client half, both pure.

A new algorithm overrides what it needs; `step` alone is abstract. State is a mapping of named
Tensors that goes straight into a checkpoint; nothing is hidden in `self`, whose fields are the
algorithm's constants.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from fedkit.aggregate import WeightedSum
from fedkit.messages import ClientId, Pass, Settings, Task, Trained, Update
from fedkit.tensors import Array, Memory, State, Tensors


class Strategy(ABC):
    """Subclass as a frozen dataclass; the fields are the parameters a scenario may set."""

    needs_each_update: ClassVar[bool] = False
    """True for rules that must see every update: forbids secure aggregation and partial sums."""

    accepts_partial_work: ClassVar[bool] = False
    """True if an update that did less work than asked is welcome; otherwise it is refused."""

    def init(self, model: Tensors) -> State:
        """The server's state before round 0."""
        return {}

    def settings(self, state: State, round: int) -> Settings:
        """Settings of this round's tasks; they override those of the scenario's [train]."""
        return {}

    def context(self, state: State) -> State:
        """Tensors that every task of the round carries for the client half."""
        return {}

    def extras(self, model: Tensors) -> Tensors:
        """Names, shapes and dtypes of Update.extras, as zeros."""
        return {}

    @abstractmethod
    def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
        """The next model and state from the round's sum."""

    def combine(self, updates: Sequence[tuple[ClientId, Update]], zero: WeightedSum) -> WeightedSum:
        """Robust rules only: one sum from all updates, which come sorted by client."""
        for client, update in updates:
            zero.add(client, update)
        return zero

    def weigh(self, age: int) -> float:
        """Factor on the weight of an update that is `age` rounds late: (1 + age)^-1/2.

        Source: Xie, Koyejo, Gupta 2019 (arXiv:1903.03934), polynomial staleness with a = 1/2.
        """
        return float((1 + age) ** -0.5)

    def shared(self, name: str) -> bool:
        """Whether tensor `name` travels; one that does not stays in the client's memory."""
        return True

    def begin(self, task: Task, memory: Memory) -> Sequence[Pass]:
        """The training passes of one task; the default is one, from the task's model."""
        return (Pass(task.model, task.model),)

    def correct(self, grad: Array, weight: Array, anchor: Array, extra: Mapping[str, Array]) -> Array:
        """The gradient to apply. Elementwise; must not change its arguments.

        Called on every trained parameter at each step, with numpy, torch or stacked arrays alike.
        """
        return grad

    def finish(self, task: Task, memory: Memory, trained: Sequence[Trained]) -> tuple[Update, Memory]:
        """The update to send and the client's new memory; the default sends the last pass.

        The weight is the number of examples (McMahan et al. 2017, arXiv:1602.05629).
        """
        last = trained[-1]
        return Update(last.delta, last.examples, last.metrics, {}, task.work), memory

    @property
    def corrects(self) -> bool:
        """Whether `correct` is overridden; trainers skip the call otherwise."""
        return type(self).correct is not Strategy.correct
