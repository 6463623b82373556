"""Random sparsification (Konecny, McMahan et al. 2016, arXiv:1610.05492, section 2: random mask)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedkit.codecs.codec import CodecContext
from fedkit.codecs.stage import Transform, Vector
from fedkit.seeds import stream


@dataclass(frozen=True)
class Sample(Transform):
    """A random share `keep` of the entries, times its inverse; positions follow from the seed.

    Rotate first: kept raw coordinates alone train badly. shared: the same positions for all.
    """

    id: ClassVar[str] = "sample"
    paper: ClassVar[str] = "Konecny et al. 2016, arXiv:1610.05492"
    unbiased: ClassVar[bool] = True
    keep: float = 0.1
    shared: bool = False

    def __post_init__(self) -> None:
        self.check("keep", 2.0**-10, 1.0)

    def out_len(self, d: int) -> int:
        return max(1, round(self.keep * d)) if d else 0

    def nmse(self, d: int) -> float | None:
        return d / self.out_len(d) - 1 if d else 0.0

    def forward(self, vector: Vector, ctx: CodecContext) -> tuple[Vector, bytes]:
        if not vector.size:
            return vector, b""
        chosen = self._chosen(vector.size, ctx)
        return vector[chosen] * np.float32(vector.size / chosen.size), b""

    def inverse(self, vector: Vector, side: memoryview, d: int, ctx: CodecContext) -> Vector:
        out = np.zeros(d, np.float32)
        if d:
            out[self._chosen(d, ctx)] = vector
        return out

    def _chosen(self, d: int, ctx: CodecContext) -> NDArray[np.int64]:
        seed = ctx.shared_seed if self.shared else ctx.seed
        return np.sort(stream(seed, "sample").choice(d, self.out_len(d)))
