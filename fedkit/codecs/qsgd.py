"""QSGD (Alistarh, Grubic, Li, Tomioka, Vojnovic 2017, arXiv:1610.02132).

A bucket x of B entries becomes |x|_2 sign(x_i) xi_i / s with whole xi_i of expectation s |x_i| / |x|_2.
That is stochastic rounding to steps of |x|_2 / s, which are sqrt(B) / s root mean squares: the rounding
and the entropy coding are those of `ecsq`, in place of the paper's Elias code. A last bucket of fewer
entries keeps the step of sqrt(B) / s root mean squares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from fedkit.codecs.codec import CodecContext
from fedkit.codecs.ecsq import Ecsq
from fedkit.codecs.stage import Quantizer, Vector
from fedkit.errors import ConfigError


@dataclass(frozen=True)
class Qsgd(Quantizer):
    """`levels` steps from 0 to the Euclidean norm of each bucket of `bucket` entries, rounded at random."""

    id: ClassVar[str] = "qsgd"
    paper: ClassVar[str] = "Alistarh et al. 2017, arXiv:1610.02132"
    unbiased: ClassVar[bool] = True
    fixed_size: ClassVar[bool] = False
    levels: int = 1
    bucket: int = 512

    def __post_init__(self) -> None:
        self.check("levels", 1, 127)
        self.check("bucket", 16, 65536)
        if self.bucket > (64 * self.levels) ** 2:
            raise ConfigError(
                f"codec stage 'qsgd': bucket = {self.bucket} is too large for levels = {self.levels}: "
                f"at most {(64 * self.levels) ** 2}"
            )

    @cached_property
    def _rounding(self) -> Ecsq:
        return Ecsq(delta=math.sqrt(self.bucket) / self.levels, block=self.bucket)

    @property
    def worst_nmse(self) -> float:
        """Bound of the expected |decoded - x|^2 / |x|^2 for every x (lemma 3.1 of the paper)."""
        return min(self.bucket / self.levels**2, math.sqrt(self.bucket) / self.levels)

    def max_len(self, d: int) -> int:
        return self._rounding.max_len(d)

    def min_len(self, d: int) -> int:
        return self._rounding.min_len(d)

    def size_estimate(self, d: int) -> float:
        return self._rounding.size_estimate(d)

    def encode(self, vector: Vector, ctx: CodecContext) -> bytes:
        return self._rounding.encode(vector, ctx)

    def decode(self, data: memoryview, d: int, ctx: CodecContext) -> Vector:
        return self._rounding.decode(data, d, ctx)
