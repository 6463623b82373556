"""Entropy-coded uniform scalar quantisation, the default.

At high rate it is within .25 bit of any scalar scheme (Gish and Pierce 1968), and a step of several
times the root mean square still works when the rounding is stochastic, since the mean over clients
is unbiased. Subtractive dither: Roberts 1962; Schuchman 1964.

    bfloat16 ...     the root mean square of each block; the last block may be shorter
    symbols          as entropy.py says; int8 if they always fit, else int16
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np

from fedkit.codecs import bits, entropy, relative
from fedkit.codecs.codec import CodecContext
from fedkit.codecs.entropy import Symbols
from fedkit.codecs.reader import Reader
from fedkit.codecs.stage import Quantizer, Vector
from fedkit.seeds import stream


@dataclass(frozen=True)
class Ecsq(Quantizer):
    """Uniform steps of delta times the root mean square of each block, entropy coded.

    mode stoch: rounded up or down at random; dither: a uniform shift that the decoder takes off
    again; near: to the nearest, biased.
    """

    id: ClassVar[str] = "ecsq"
    paper: ClassVar[str] = "Gish and Pierce 1968, doi:10.1109/TIT.1968.1054193"
    fixed_size: ClassVar[bool] = False
    delta: float = 4.0
    mode: Literal["stoch", "dither", "near"] = "stoch"
    block: int = 4096

    def __post_init__(self) -> None:
        self.check("delta", 0.01, 64.0)
        self.check("block", 16, 65536)

    @property
    def unbiased(self) -> bool:
        return self.mode != "near"

    @property
    def contractive(self) -> bool:
        return self.mode == "near"

    @property
    def worst_nmse(self) -> float:
        step = 1.01 * self.delta**2  # scales are rounded to bfloat16
        bound = step / 12 if self.mode == "dither" else step / 4
        return min(bound, 1.0) if self.contractive else bound

    @property
    def _dtype(self) -> np.dtype[Any]:
        """Symbols reach sqrt(block) / delta, where all of a block's energy is in one entry."""
        return np.dtype(np.int8 if 1.01 * math.sqrt(self.block) / self.delta + 1 <= 127 else np.int16)

    def _scales_len(self, d: int) -> int:
        return 2 * -(-d // self.block)

    def max_len(self, d: int) -> int:
        return self._scales_len(d) + entropy.max_len(d, self._dtype)

    def min_len(self, d: int) -> int:
        return self._scales_len(d) + 1

    def size_estimate(self, d: int) -> float:
        return self._scales_len(d) + d * _entropy(self.delta, self.mode == "near") / 8

    def nmse(self, d: int) -> float | None:
        return self.delta**2 / 12 if self.mode == "dither" else None

    def encode(self, vector: Vector, ctx: CodecContext) -> bytes:
        symbols, scales = np.empty(vector.size, self._dtype), []
        noise, spare = stream(ctx.seed, "shift"), bits.scratch(vector.size)
        for low, rows in bits.rows(vector, self.block):
            scale = bits.bfloat16(np.sqrt(np.einsum("ij,ij->i", rows, rows) / np.float32(rows.shape[1])))
            scales.append(bits.little(scale))
            step = self._step(bits.from_bfloat16(scale))
            steps = bits.divided(rows, step, spare)
            if self.mode != "near":
                steps += bits.centred(noise, rows.shape)
            symbols[low : low + rows.size] = np.rint(steps, out=steps).reshape(-1)
        return b"".join((*scales, entropy.encode(symbols)))

    def decode(self, data: memoryview, d: int, ctx: CodecContext) -> Vector:
        reader = Reader(data)
        step = self._step(bits.read_scales(reader, -(-d // self.block)))
        symbols = entropy.decode(reader.rest(), d, self._dtype)
        out, noise = np.empty(d, np.float32), stream(ctx.seed, "shift")
        for low, rows in bits.rows(out, self.block):
            rows[:] = symbols[low : low + rows.size].reshape(rows.shape)
            if self.mode == "dither":
                rows -= bits.centred(noise, rows.shape)
            first = low // self.block
            rows *= step[first : first + len(rows), None]
        return out

    def relative(self, data: memoryview, held: memoryview, d: int) -> bytes | None:
        cut = self._scales_len(d)
        return bytes(data[:cut]) + relative.encode(self._symbols(data, d), self._symbols(held, d))

    def absolute(self, data: memoryview, held: memoryview, d: int) -> bytes:
        reader = Reader(data)
        scales = reader.take(self._scales_len(d))
        symbols = relative.decode(reader.rest(), self._symbols(held, d), self._dtype)
        return bytes(scales) + entropy.encode(symbols)

    def _symbols(self, data: memoryview, d: int) -> Symbols:
        return entropy.decode(data[self._scales_len(d) :], d, self._dtype)

    def _step(self, scales: Vector) -> Vector:
        return scales * np.float32(self.delta)


@cache
def _entropy(delta: float, near: bool) -> float:
    """Bits an entry for a heavy-tailed delta: signed 2.4th powers of normal quantiles, whose mean
    magnitude is half their root mean square, as measured on local updates of small networks."""
    from statistics import NormalDist  # a megabyte, which a device can do without

    normal = np.array([NormalDist().inv_cdf((i + 0.5) / 4096) for i in range(4096)])
    values = np.sign(normal) * np.abs(normal) ** 2.4
    steps = values / (delta * math.sqrt(float(np.mean(values**2))))
    below = np.floor(steps + 0.5 * near)
    up = np.zeros_like(steps) if near else steps - below
    counts = np.bincount((below - below.min()).astype(int), 1 - up, minlength=int(np.ptp(below)) + 2)
    counts[1:] += np.bincount((below - below.min()).astype(int), up, minlength=len(counts))[: len(counts) - 1]
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())
