"""EDEN: rotated, quantised to 1-4 bits with the centroids of a normal distribution, scaled to be unbiased.

Vargaftik, Ben Basat, Portnoy, Mendelson, Ben-Itzhak, Mitzenmacher 2022, "EDEN: communication-efficient
and robust distributed mean estimation for federated learning", arXiv:2108.08842. The scale of a block y
whose centroids are q is |y|^2 / <y, q>. Fractions of a bit: only a random share of the rotated
coordinates is sent (section 4.3 there), scaled by the inverse of the share.

    bfloat16 ...     the scale of each row: of the head, if there is one, then of each block
    for each chunk   (the head is one) for each plane, signs (1 is positive) then levels, low bit first:
                     one bit for each kept coordinate, low bit first, padded to a byte
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fedkit.codecs import bits
from fedkit.codecs.codec import CodecContext
from fedkit.codecs.hadamard import SIGNS, Rotation, expand
from fedkit.codecs.reader import Reader
from fedkit.codecs.stage import Quantizer, Vector
from fedkit.seeds import stream

CENTROIDS = {
    1: (0.7978845608,),
    2: (0.4527800346, 1.5104176087),
    3: (0.2450941791, 0.7560052815, 1.3439092613, 2.1519457045),
    4: (
        0.1283950299,
        0.3880482788,
        0.6567589957,
        0.9423403765,
        1.2562310880,
        1.6180463720,
        2.0690172265,
        2.7325896054,
    ),
}
"""Positive halves of the Lloyd-Max quantisers of the standard normal distribution (Max 1960, table I)."""
NMSE = {1: 0.5708, 2: 0.1331, 3: 0.0358, 4: 0.0096}


@dataclass(frozen=True)
class Eden(Quantizer):
    """`bits` for each kept coordinate of a random rotation; `keep` is the share that is sent.

    Unbiased: the length along the delta is right in the mean for every delta. Single entries are too where
    some hundred entries carry a block's energy, as in deltas of training: only there does one Hadamard
    transform spread it like a uniform rotation. With three large entries in a block they are off by a tenth
    of its norm, round after round: `rotate|eden` turns twice and is unbiased for all.
    scale min takes the scale of least error instead, for error feedback. Fixed size: bits * keep an
    entry, and 2 bytes for each block of 4096.
    """

    id: ClassVar[str] = "eden"
    paper: ClassVar[str] = "Vargaftik et al. 2022, arXiv:2108.08842"
    deterministic_decode: ClassVar[bool] = False
    bits: Literal[1, 2, 3, 4] = 1
    keep: float = 1.0
    scale: Literal["unbiased", "min"] = "unbiased"

    def __post_init__(self) -> None:
        self.check("bits", 1, 4)
        self.check("keep", 2.0**-10, 1.0)

    @property
    def unbiased(self) -> bool:
        return self.scale == "unbiased"

    @property
    def contractive(self) -> bool:
        return self.scale == "min"

    def nmse(self, d: int) -> float | None:
        """For blocks whose energy some hundred entries carry; sparser ones come back with another error."""
        if self.scale == "min":
            return 1 - self.keep / (1 + NMSE[self.bits])
        return (1 + NMSE[self.bits]) / self.keep - 1

    def max_len(self, d: int) -> int:
        shapes = Rotation(d, 0).shapes() if d else []
        return sum(2 * n + self.bits * _bytes(n * self._kept(width)) for n, width in shapes)

    def encode(self, vector: Vector, ctx: CodecContext) -> bytes:
        if not vector.size:
            return b""
        rotation, noise = Rotation(vector.size, ctx.seed), stream(ctx.seed, "scales")
        columns = self._columns(rotation, ctx)
        scales, codes = [], []
        for rows in rotation.rows(vector):
            width = rows.shape[1]
            kept = rows if self.keep == 1 else np.take(rows, columns[width], axis=1)
            scale, planes = self._quantise(kept)
            if self.scale == "unbiased":
                scale *= np.float32(width / kept.shape[1])
            scales.append(bits.bfloat16_stochastic(scale, noise))
            codes += planes
        return b"".join((*map(bits.little, scales), *codes))

    def decode(self, data: memoryview, d: int, ctx: CodecContext) -> Vector:
        reader = Reader(data)
        if not d:
            reader.done()
            return np.empty(0, np.float32)
        rotation = Rotation(d, ctx.seed)
        out = rotation.back(self._rows(reader, rotation, ctx))
        reader.done()
        return out

    def _quantise(self, rows: Vector) -> tuple[Vector, list[bytes]]:
        """The scale of each row, and the bit planes: signs, then the levels, low bit first."""
        sizes, energy = np.abs(rows), np.einsum("ij,ij->i", rows, rows)
        levels = self._levels(sizes, energy)
        if self.bits == 1:
            product = sizes.sum(axis=1) * self._centroids[0]
            square = np.full_like(product, self._centroids[0] ** 2 * rows.shape[1])
        else:
            chosen = self._magnitudes(levels)
            product = np.einsum("ij,ij->i", sizes, chosen)
            square = np.einsum("ij,ij->i", chosen, chosen)
        signs = np.packbits(rows > 0, bitorder="little")
        planes = [np.packbits(levels & np.uint8(1 << b), bitorder="little") for b in range(self.bits - 1)]
        packed = [plane.tobytes() for plane in (signs, *planes)]
        return (_ratio(product, square) if self.scale == "min" else _ratio(energy, product)), packed

    def _levels(self, sizes: Vector, energy: Vector) -> NDArray[np.uint8]:
        """Which centroid is nearest to each magnitude."""
        levels = np.zeros(sizes.shape if self.bits > 1 else 0, np.uint8)
        root = np.sqrt(energy / np.float32(sizes.shape[1]))[:, None]
        for edge in (self._centroids[1:] + self._centroids[:-1]) / 2:
            levels += sizes > edge * root
        return levels

    def _rows(self, reader: Reader, rotation: Rotation, ctx: CodecContext) -> Iterator[Vector]:
        columns, shapes = self._columns(rotation, ctx), rotation.shapes()
        scales = bits.read_scales(reader, sum(n for n, _ in shapes))
        first = 0
        for n, width in shapes:
            kept = self._values(reader, n, self._kept(width))
            kept *= scales[first : first + n, None]
            first += n
            if self.keep == 1:
                yield kept
                continue
            rows = np.zeros((n, width), np.float32)
            rows[:, columns[width]] = kept
            yield rows

    def _values(self, reader: Reader, n: int, width: int) -> Vector:
        """Centroids with their signs, from the bit planes."""
        count = n * width
        values = expand(SIGNS, reader.take(_bytes(count)), count)
        if self.bits == 1:
            values *= self._centroids[0]
            return values.reshape(n, width)
        levels = np.zeros(count, np.uint8)
        for plane in range(self.bits - 1):
            packed = np.frombuffer(reader.take(_bytes(count)), np.uint8)
            levels |= np.unpackbits(packed, count=count, bitorder="little") << np.uint8(plane)
        values *= self._magnitudes(levels)
        return values.reshape(n, width)

    @property
    def _centroids(self) -> Vector:
        return np.array(CENTROIDS[self.bits], np.float32)

    def _magnitudes(self, levels: NDArray[np.uint8]) -> Vector:
        low, high = self._centroids[:2]
        if self.bits == 2:  # arithmetic is four times as fast as a look-up
            made: Vector = levels * (high - low) + low
            return made
        return np.take(self._centroids, levels, mode="clip")

    def _kept(self, width: int) -> int:
        return max(1, round(self.keep * width))

    def _columns(self, rotation: Rotation, ctx: CodecContext) -> dict[int, NDArray[np.int64]]:
        """The coordinates sent of the head and of every block, by width."""
        widths = {width for _, width in rotation.shapes()}
        drawn = {w: stream(ctx.seed, "keep", w).choice(w, self._kept(w)) for w in sorted(widths)}
        return {width: np.sort(chosen) for width, chosen in drawn.items()}


def _bytes(count: int) -> int:
    return (count + 7) // 8


def _ratio(energy: Vector, product: Vector) -> Vector:
    return np.divide(energy, product, out=np.zeros_like(energy), where=product > 0)
