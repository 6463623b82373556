"""FedAvg: McMahan, Moore, Ramage, Hampson, Agüera y Arcas 2017, arXiv:1602.05629, algorithm 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedkit.aggregate import WeightedSum
from fedkit.errors import ConfigError
from fedkit.strategy import Strategy
from fedkit.tensors import State, Tensors, add


@dataclass(frozen=True)
class FedAvg(Strategy):
    """model <- model + lr * weighted mean of the deltas; lr = 1 is the paper's."""

    lr: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.lr):
            raise ConfigError(f"strategy.lr = {self.lr}: must be finite")

    def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
        return add(model, total.mean(), scale=self.lr), state
