"""Sparse ternary compression (Sattler, Wiedemann, Mueller, Samek 2019, arXiv:1903.02891).

As in algorithm 1 there: the largest entries, their signs, and the mean of their magnitudes for all.
Positions are coded as gaps with Rice-split tokens (gaps.py) in place of the paper's Golomb code, which
need the same number of bits within 1 %; small tensors are set apart and not part of the selection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkit.codecs import gaps, top
from fedkit.codecs.codec import CodecContext
from fedkit.codecs.reader import Reader
from fedkit.codecs.stage import Quantizer, Vector
from fedkit.errors import WireError


@dataclass(frozen=True)
class Stc(Quantizer):
    """Positions and signs of the largest entries and one magnitude. Biased: use it with error feedback.

    float32 magnitude, then the gaps with values of 1 and -1.
    """

    id: ClassVar[str] = "stc"
    paper: ClassVar[str] = "Sattler et al. 2019, arXiv:1903.02891"
    unbiased: ClassVar[bool] = False
    contractive: ClassVar[bool] = True
    fixed_size: ClassVar[bool] = False
    share: float = 0.01

    def __post_init__(self) -> None:
        self.check("share", 2.0**-16, 1.0)

    def max_len(self, d: int) -> int:
        return 4 + top.max_len(d, top.count(d, self.share))

    def min_len(self, d: int) -> int:
        return 5

    def size_estimate(self, d: int) -> float:
        kept = top.count(d, self.share)
        return 4 + (kept + top.entropy(d, kept)) / 8

    def encode(self, vector: Vector, ctx: CodecContext) -> bytes:
        at = top.positions(vector, top.count(vector.size, self.share))
        values = vector[at]
        magnitude = float(np.abs(values).mean(dtype=np.float64)) if at.size else 0.0
        signs = np.where(values < 0, -1, 1)
        return np.array(magnitude, "<f4").tobytes() + gaps.encode(at, signs)

    def decode(self, data: memoryview, d: int, ctx: CodecContext) -> Vector:
        reader = Reader(data)
        magnitude = np.frombuffer(reader.take(4), "<f4")[0]
        if not math.isfinite(magnitude) or np.signbit(magnitude):
            raise WireError("payload: the magnitude is negative or not finite")
        out = np.zeros(d, np.float32)
        for at, signs in top.decode(reader.rest(), d, top.count(d, self.share)):
            out[at] = signs * magnitude
        return out
