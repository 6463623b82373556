"""Clipping: bounds the norm of what a client sends (McMahan, Ramage et al. 2018, arXiv:1710.06963)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkit.codecs.codec import CodecContext
from fedkit.codecs.stage import Transform, Vector


@dataclass(frozen=True)
class Clip(Transform):
    """The vector that goes through the stages is scaled down to Euclidean norm `norm` if it is longer."""

    id: ClassVar[str] = "clip"
    paper: ClassVar[str] = "McMahan et al. 2018, arXiv:1710.06963"
    unbiased: ClassVar[bool] = False
    norm: float = 1.0

    def __post_init__(self) -> None:
        self.check("norm", 1e-12, 1e12)

    def forward(self, vector: Vector, ctx: CodecContext) -> tuple[Vector, bytes]:
        length = math.sqrt(float(np.square(vector, dtype=np.float64).sum()))
        return (vector * np.float32(self.norm / length) if length > self.norm else vector), b""

    def inverse(self, vector: Vector, side: memoryview, d: int, ctx: CodecContext) -> Vector:
        return vector
