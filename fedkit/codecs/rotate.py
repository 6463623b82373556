"""Random rotation as a stage: spreads the energy of a few large entries over their block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkit.codecs.codec import CodecContext
from fedkit.codecs.hadamard import Rotation
from fedkit.codecs.stage import Transform, Vector


@dataclass(frozen=True)
class Rotate(Transform):
    """Sign flips and a Walsh-Hadamard transform in blocks; shared: the same for the whole cohort."""

    id: ClassVar[str] = "rotate"
    paper: ClassVar[str] = "Suresh et al. 2017, arXiv:1611.00429"
    unbiased: ClassVar[bool] = True
    contractive: ClassVar[bool] = True
    deterministic_decode: ClassVar[bool] = False
    worst_nmse: ClassVar[float] = 0.0
    shared: bool = False

    def nmse(self, d: int) -> float | None:
        return 0.0

    def forward(self, vector: Vector, ctx: CodecContext) -> tuple[Vector, bytes]:
        if not vector.size:
            return vector, b""
        out, start = np.empty_like(vector), 0
        for rows in self._rotation(vector.size, ctx).rows(vector):
            out[start : start + rows.size] = rows.reshape(-1)
            start += rows.size
        return out, b""

    def inverse(self, vector: Vector, side: memoryview, d: int, ctx: CodecContext) -> Vector:
        if not d:
            return vector
        rotation = self._rotation(d, ctx)
        ends = np.cumsum([0, *(n * width for n, width in rotation.shapes())])
        pieces = zip(ends[:-1], ends[1:], rotation.shapes(), strict=True)
        return rotation.back(vector[low:high].reshape(shape) for low, high, shape in pieces)

    def _rotation(self, d: int, ctx: CodecContext) -> Rotation:
        return Rotation(d, ctx.shared_seed if self.shared else ctx.seed)
