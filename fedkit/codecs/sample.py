"""Random sparsification (Konecny, McMahan et al. 2016, arXiv:1610.05492, section 2: random mask)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedkit.codecs.codec import CodecContext
from fedkit.codecs.stage import Transform, Vector
from fedkit.seeds import stream


@dataclass(frozen=True)
class Sample(Transform):
    """A share `keep` of the entries, one at random of each run of 1 / keep, times the length of the run.

    Positions follow from the seed; shared: the same for the whole cohort. Rotate first: a random share of
    raw coordinates trains badly.
    """

    id: ClassVar[str] = "sample"
    paper: ClassVar[str] = "Konecny et al. 2016, arXiv:1610.05492"
    unbiased: ClassVar[bool] = True
    keep: float = 0.1
    shared: bool = False

    def __post_init__(self) -> None:
        self.check("keep", 2.0**-10, 1.0)

    @property
    def worst_nmse(self) -> float:
        return math.ceil(1.5 / self.keep) - 1.0 if self.keep < 1 else 0.0

    def out_len(self, d: int) -> int:
        return max(1, round(self.keep * d)) if d else 0

    def nmse(self, d: int) -> float | None:
        if not d:
            return 0.0
        size, longer = divmod(d, self.out_len(d))
        return ((self.out_len(d) - longer) * size * (size - 1) + longer * (size + 1) * size) / d

    def forward(self, vector: Vector, ctx: CodecContext) -> tuple[Vector, bytes]:
        chosen, sizes = self._chosen(vector.size, ctx)
        return vector[chosen] * sizes.astype(np.float32), b""

    def inverse(self, vector: Vector, side: memoryview, d: int, ctx: CodecContext) -> Vector:
        out = np.zeros(d, np.float32)
        out[self._chosen(d, ctx)[0]] = vector
        return out

    def _chosen(self, d: int, ctx: CodecContext) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """One position of each of `out_len(d)` runs of d entries, and the lengths of the runs."""
        kept = self.out_len(d)
        ends = np.arange(kept + 1) * d // max(1, kept)
        sizes = np.diff(ends)
        drawn = stream(ctx.shared_seed if self.shared else ctx.seed, "sample").bytes(4 * kept)
        return ends[:-1] + (np.frombuffer(drawn, "<u4") * sizes >> 32), sizes
