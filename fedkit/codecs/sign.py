"""Scaled signs (Karimireddy, Rebjock, Stich, Jaggi 2019, arXiv:1901.09847, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkit.codecs import bits
from fedkit.codecs.codec import CodecContext
from fedkit.codecs.hadamard import SIGNS, expand
from fedkit.codecs.reader import Reader
from fedkit.codecs.stage import Quantizer, Vector


@dataclass(frozen=True)
class Sign(Quantizer):
    """One bit an entry, and the mean magnitude of each block. Biased: use it with error feedback.

    The error of a block x is |x|_2^2 - |x|_1^2 / d. Scales as bfloat16, then the signs, low bit first.
    """

    id: ClassVar[str] = "sign"
    paper: ClassVar[str] = "Karimireddy et al. 2019, arXiv:1901.09847"
    unbiased: ClassVar[bool] = False
    contractive: ClassVar[bool] = True
    block: int = 4096

    def __post_init__(self) -> None:
        self.check("block", 16, 65536)

    def max_len(self, d: int) -> int:
        return 2 * -(-d // self.block) + (d + 7) // 8

    def encode(self, vector: Vector, ctx: CodecContext) -> bytes:
        scales = [
            bits.little(bits.bfloat16(np.abs(rows).mean(axis=1))) for _, rows in bits.rows(vector, self.block)
        ]
        return b"".join((*scales, np.packbits(vector > 0, bitorder="little").tobytes()))

    def decode(self, data: memoryview, d: int, ctx: CodecContext) -> Vector:
        reader = Reader(data)
        scales = bits.read_scales(reader, -(-d // self.block))
        packed = reader.take((d + 7) // 8)
        reader.done()
        out = expand(SIGNS, packed, d)
        for low, rows in bits.rows(out, self.block):
            first = low // self.block
            rows *= scales[first : first + len(rows), None]
        return out
