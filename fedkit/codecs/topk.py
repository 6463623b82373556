"""Top-k sparsification (Aji and Heafield 2017, arXiv:1704.05021; Stich et al. 2018, arXiv:1809.07599)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkit.codecs import gaps, top
from fedkit.codecs.codec import CodecContext
from fedkit.codecs.stage import Transform, Vector
from fedkit.errors import WireError


@dataclass(frozen=True)
class TopK(Transform):
    """The share of entries that is largest in magnitude, with their positions; all others become zero.

    Biased: use it with error feedback, as in `topk:share=0.01|int8`.
    """

    id: ClassVar[str] = "topk"
    paper: ClassVar[str] = "Aji and Heafield 2017, arXiv:1704.05021"
    unbiased: ClassVar[bool] = False
    contractive: ClassVar[bool] = True
    fixed_size: ClassVar[bool] = False
    share: float = 0.01

    def __post_init__(self) -> None:
        self.check("share", 2.0**-16, 1.0)

    @property
    def worst_nmse(self) -> float:
        return 1 - self.share / 2  # the number of entries is rounded

    def out_len(self, d: int) -> int:
        return top.count(d, self.share)

    def max_len(self, d: int) -> int:
        return top.max_len(d, self.out_len(d))

    def min_len(self, d: int) -> int:
        return 1

    def size_estimate(self, d: int) -> float:
        return top.entropy(d, self.out_len(d)) / 8

    def forward(self, vector: Vector, ctx: CodecContext) -> tuple[Vector, bytes]:
        at = top.positions(vector, self.out_len(vector.size))
        return vector[at], gaps.encode(at, np.ones(len(at), np.int64))

    def inverse(self, vector: Vector, side: memoryview, d: int, ctx: CodecContext) -> Vector:
        out, start = np.zeros(d, np.float32), 0
        for at, signs in top.decode(side, d, self.out_len(d)):
            if (signs < 0).any():
                raise WireError("payload: a sign where none is due")
            out[at] = vector[start : start + len(at)]
            start += len(at)
        return out
