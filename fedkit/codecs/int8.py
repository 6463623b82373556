"""Stochastic 8-bit quantisation in blocks: QSGD's rounding (Alistarh et al. 2017, arXiv:1610.02132).

bfloat16 ...     the step of each block; the last block may be shorter
int8 ...         the symbols
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkit.codecs import bits
from fedkit.codecs.blockwise import Blockwise
from fedkit.codecs.codec import CodecContext
from fedkit.codecs.reader import Reader
from fedkit.codecs.stage import Vector
from fedkit.seeds import stream

LEVELS = 126.9
"""Steps from 0 to the peak: under 127, so that rounding up never leaves a byte."""


@dataclass(frozen=True)
class Int8(Blockwise):
    """One signed byte an entry, rounded at random, and a step of peak / 127 for each block.

    The random threshold has 8 bits: a bias of at most 2^-9 of a step, 1.5e-5 of the block's peak.
    """

    id: ClassVar[str] = "int8"
    levels: ClassVar[float] = LEVELS

    def max_len(self, d: int) -> int:
        return d + 2 * -(-d // self.block)

    def encode(self, vector: Vector, ctx: CodecContext) -> bytes:
        symbols, scales = np.empty(vector.size, np.int8), []
        noise, spare = stream(ctx.seed, "rounding"), bits.scratch(vector.size)
        for low, rows in bits.rows(vector, self.block):
            scale = bits.bfloat16_up(bits.peaks(rows) / np.float32(LEVELS))
            scales.append(bits.little(scale))
            step = bits.from_bfloat16(scale)
            steps = bits.divided(rows, step / np.float32(256), spare)
            fine = np.rint(steps, out=steps).astype(np.int16)
            fine += np.frombuffer(noise.bytes(rows.size), np.uint8).reshape(rows.shape)
            fine >>= 8
            symbols[low : low + rows.size] = fine.reshape(-1)
        return b"".join((*scales, symbols.data))

    def decode(self, data: memoryview, d: int, ctx: CodecContext) -> Vector:
        reader = Reader(data)
        step = bits.read_scales(reader, -(-d // self.block))
        symbols = np.frombuffer(reader.take(d), np.int8)
        reader.done()
        out = np.empty(d, np.float32)
        for low, rows in bits.rows(out, self.block):
            rows[:] = symbols[low : low + rows.size].reshape(rows.shape)
            first = low // self.block
            bits.times(rows, step[first : first + len(rows)], rows)
        return out
