"""FedProx: Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith 2020, arXiv:1812.06127, algorithm 2."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fedkit.errors import ConfigError
from fedkit.tensors import Array
from fedkit_strategies.fedavg import FedAvg


@dataclass(frozen=True)
class FedProx(FedAvg):
    """FedAvg whose clients minimise loss + mu/2 |w - w_t|^2 and may do part of the work."""

    accepts_partial_work: ClassVar[bool] = True

    mu: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.mu < math.inf:
            raise ConfigError(f"strategy.mu = {self.mu}: must be at least 0 and finite")

    def correct(self, grad: Array, weight: Array, anchor: Array, extra: Mapping[str, Array]) -> Array:
        return grad + self.mu * (weight - anchor)
