"""What quantizers share that round at random, by a step of its own for each block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedkit.codecs.stage import Quantizer


@dataclass(frozen=True)
class Blockwise(Quantizer):
    """A step for each block of `block` entries. levels: steps from 0 to the block's peak."""

    paper: ClassVar[str] = "Alistarh et al. 2017, arXiv:1610.02132"
    unbiased: ClassVar[bool] = True
    levels: ClassVar[float]
    block: int = 1024

    def __post_init__(self) -> None:
        self.check("block", 16, 65536)

    @property
    def contractive(self) -> bool:
        return self.block * (1.01 / self.levels) ** 2 <= 1  # no entry is off by more than a step

    @property
    def worst_nmse(self) -> float:
        return self.block * (1.01 / self.levels) ** 2 / 4
