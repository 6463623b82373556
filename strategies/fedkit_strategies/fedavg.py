"""FedAvg: McMahan, Moore, Ramage, Hampson, Agüera y Arcas 2017, arXiv:1602.05629, algorithm 1."""

from __future__ import annotations

from dataclasses import dataclass

from fedkit.aggregate import WeightedSum
from fedkit.strategy import Strategy
from fedkit.tensors import State, Tensors, add


@dataclass(frozen=True)
class FedAvg(Strategy):
    """model <- model + lr * weighted mean of the deltas; lr = 1 is the paper's."""

    lr: float = 1.0

    def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
        return add(model, total.mean(), scale=self.lr), state
