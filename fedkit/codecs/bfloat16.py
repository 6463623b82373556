"""bfloat16: the upper half of each float32 (Kalamkar et al. 2019, arXiv:1905.12322)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from fedkit.codecs import bits
from fedkit.codecs.codec import CodecContext
from fedkit.codecs.reader import Reader
from fedkit.codecs.stage import Quantizer, Vector
from fedkit.seeds import stream


@dataclass(frozen=True)
class BFloat16(Quantizer):
    """Two bytes an entry. mode near: to the nearest, ties to even; stoch: at random, unbiased."""

    id: ClassVar[str] = "bfloat16"
    paper: ClassVar[str] = "Kalamkar et al. 2019, arXiv:1905.12322"
    mode: Literal["near", "stoch"] = "near"

    @property
    def unbiased(self) -> bool:
        return self.mode == "stoch"

    @property
    def contractive(self) -> bool:
        return self.mode == "near"

    @property
    def worst_nmse(self) -> float:
        return 2.0**-16

    def max_len(self, d: int) -> int:
        return 2 * d

    def encode(self, vector: Vector, ctx: CodecContext) -> bytes:
        noise = stream(ctx.seed, "rounding")
        out = np.empty(vector.size, "<u2")
        for low in range(0, vector.size, bits.CHUNK):
            piece = vector[low : low + bits.CHUNK]
            near = self.mode == "near"
            out[low : low + piece.size] = (
                bits.bfloat16(piece) if near else bits.bfloat16_stochastic(piece, noise)
            )
        return out.tobytes()

    def decode(self, data: memoryview, d: int, ctx: CodecContext) -> Vector:
        reader = Reader(data)
        half = reader.uint16(d)
        reader.done()
        return bits.from_bfloat16(half)
