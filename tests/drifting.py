"""A strategy with everything that a restart or a loss could get wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedkit import Task, Trained, Update
from fedkit.aggregate import WeightedSum
from fedkit.tensors import Memory, State, Tensors, add, scale, subtract
from fedkit_strategies import FedAvg


@dataclass(frozen=True)
class Drifting(FedAvg):
    """FedAvg with a control at the server and at each client, and a personal bias.

    A client remembers its control only if its update was counted.
    """

    def init(self, model: Tensors) -> State:
        return {"control": scale(model, 0.0)}

    def context(self, state: State) -> State:
        return state

    def shared(self, name: str) -> bool:
        return name != "bias"

    def extras(self, model: Tensors) -> Tensors:
        return scale(model, 0.0)

    def finish(self, task: Task, memory: Memory, trained: Sequence[Trained]) -> tuple[Update, Memory]:
        last = trained[-1]
        old = memory.get("control", scale(last.delta, 0.0))
        new = add(scale(old, 0.5), subtract(last.delta, task.context["control"]))
        moved = add(last.delta, new, scale=0.1)
        return Update(moved, last.examples, last.metrics, subtract(new, old), task.work), {"control": new}

    def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
        model, _ = super().step(model, state, total)
        return model, {"control": add(state["control"], total.extras, scale=0.05)}
