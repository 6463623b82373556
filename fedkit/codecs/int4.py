"""Stochastic 4-bit quantisation in small blocks, entropy coded (Alistarh et al. 2017, arXiv:1610.02132)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkit.codecs import bits, entropy
from fedkit.codecs.blockwise import Blockwise
from fedkit.codecs.codec import CodecContext
from fedkit.codecs.reader import Reader
from fedkit.codecs.stage import Vector
from fedkit.seeds import stream

LEVELS = 6.99
"""Steps from 0 to the peak: under 7, so that rounding up never makes an eighth."""
_INT8 = np.dtype(np.int8)


@dataclass(frozen=True)
class Int4(Blockwise):
    """Whole numbers from -7 to 7 and a step of peak / 7 for each block, rounded at random.

    Two numbers are packed in a byte and Huffman coded: about 3 bits an entry. Scales as bfloat16,
    then the numbers as entropy.py codes them.
    """

    id: ClassVar[str] = "int4"
    levels: ClassVar[float] = LEVELS
    fixed_size: ClassVar[bool] = False
    block: int = 128

    def _scales_len(self, d: int) -> int:
        return 2 * -(-d // self.block)

    def max_len(self, d: int) -> int:
        return self._scales_len(d) + entropy.max_len(d, _INT8)

    def min_len(self, d: int) -> int:
        return self._scales_len(d) + 1

    def size_estimate(self, d: int) -> float:
        return self._scales_len(d) + 3 * d / 8

    def encode(self, vector: Vector, ctx: CodecContext) -> bytes:
        symbols, scales = np.empty(vector.size, np.int8), []
        noise, spare = stream(ctx.seed, "rounding"), bits.scratch(vector.size)
        for low, rows in bits.rows(vector, self.block):
            scale = bits.bfloat16_up(bits.peaks(rows) / np.float32(LEVELS))
            scales.append(bits.little(scale))
            steps = bits.divided(rows, bits.from_bfloat16(scale), spare)
            steps += bits.centred(noise, rows.shape)
            symbols[low : low + rows.size] = np.rint(steps, out=steps).reshape(-1)
        return b"".join((*scales, entropy.encode(symbols)))

    def decode(self, data: memoryview, d: int, ctx: CodecContext) -> Vector:
        reader = Reader(data)
        step = bits.read_scales(reader, -(-d // self.block))
        symbols = entropy.decode(reader.rest(), d, _INT8)
        out = np.empty(d, np.float32)
        for low, rows in bits.rows(out, self.block):
            first = low // self.block
            coded = symbols[low : low + rows.size].reshape(rows.shape)
            np.multiply(coded, step[first : first + len(rows), None], out=rows)
        return out
