"""Ring codecs: what adds up under secure aggregation.

A client's large tensors are dealt out evenly over blocks, rotated by random signs and the Hadamard
transform, all from the cohort's shared seed; a public share `keep` of the rotated coordinates is
divided by a common step, shifted by a dither from the client's own seed (known to the server),
rounded, and added modulo 2^width. The server takes the survivors' dithers off, unwraps, multiplies by
the step and turns back. Suresh et al. 2017, arXiv:1611.00429 (rotation); Roberts 1962 (subtractive dither).

The ring spans 2 kappa margin standard deviations of a coordinate of the sum, its rounding errors
included: with reach = kappa margin and n clients, the step is 2 reach scale / sqrt(4^width - n reach^2 / 3).

The vector: the lanes of the large tensors, rows of the rotation in their order, then those of the small
ones (lanes.py); as a payload its words are little-endian.

Small and exempt tensors take lanes of 32 bits, with a step of 2^8 n / 2^31: no sum of n entries within
+-2^8 can wrap. While the public scale is unknown, large tensors take 32 bits too, and a scale of 2^4 n.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedkit.codecs import bits, frame, lanes
from fedkit.codecs.codec import Codec, CodecContext
from fedkit.codecs.dealing import collect, deal
from fedkit.codecs.framed import finite
from fedkit.codecs.hadamard import Rotation
from fedkit.codecs.lanes import Words
from fedkit.codecs.rules import Split, TensorRules, gather, scatter, split
from fedkit.codecs.stage import Vector
from fedkit.errors import ConfigError, WireError
from fedkit.seeds import Stream, stream
from fedkit.tensors import Flat, Layout, Tensors

KAPPA = 4.5
"""Half the span of the ring in standard deviations of the sum: beyond it are 7e-6 of all coordinates."""
WIDE, WIDEST = 32, 16
"""Bits of a lane while nothing is known of the sum, and at most where the scale is known."""
FIRST = 2.0**4
"""Root mean square of a delta that the first round has room for."""
LARGEST = 2.0**8
"""Largest magnitude of an entry of a small tensor."""

_FINE = np.float32(2.0**16)
"""Dithers are multiples of 1 / _FINE."""
_MOST = np.float32(2**31 - 128)
"""The largest float32 that an int32 can hold."""


class Ruler(NamedTuple):
    """The common step: lanes of `width` bits, `step` between two integers, deltas up to `rms`."""

    width: int
    step: float
    rms: float


class RingCodec(Codec):
    """Encodings are vectors of uint64 words whose sum decodes to the sum of the deltas.

    What all clients and the server must agree on: the context's shared_seed, scale (root mean square
    of a coordinate of the expected sum) and clients (the most that may be in a sum).
    """

    unbiased: ClassVar[bool] = True
    ring: ClassVar[bool] = True
    fixed_size: ClassVar[bool] = False
    deterministic_decode: ClassVar[bool] = False
    keep: float
    """The share of the rotated coordinates that is sent: a field or a class attribute of the subclass."""
    width: int
    margin: float
    exempt: str

    @property
    @abstractmethod
    def id(self) -> str: ...

    def __post_init__(self) -> None:
        for name, low, high in (("width", 4, WIDEST), ("margin", 1.0, 8.0), ("keep", 2.0**-10, 1.0)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"codec {self.id!r}: {name} = {value} must be in [{low:g}, {high:g}]")
        TensorRules(exempt=self.exempt)  # refuses patterns that a spec string cannot hold

    def ruler(self, ctx: CodecContext) -> Ruler:
        """The step for the context; ConfigError when its noise would exceed a sum of so many clients."""
        known = 2.0**-60 <= ctx.scale <= 2.0**60
        width, scale = (self.width, ctx.scale) if known else (WIDE, FIRST * ctx.clients)
        reach = KAPPA * self.margin
        if 3 * 4**width < 2 * reach**2 * ctx.clients:
            least = math.ceil(math.log2(2 * reach**2 * ctx.clients / 3) / 2)
            raise ConfigError(
                f"codec {self.id!r}: width = {width} is too small for sums of {ctx.clients} clients: "
                + (f"use width={least}" if least <= WIDEST else "use a smaller margin, or ask fewer clients")
            )
        step = 2 * reach * scale / math.sqrt(4**width - ctx.clients * reach**2 / 3)
        return Ruler(width, step, self.margin * scale)

    def nmse(self, clients: int) -> float:
        """Expected |decoded - sum|^2 / |sum|^2 over the large tensors, where the scale is exact."""
        step = self.ruler(CodecContext(scale=1.0, clients=clients)).step
        return (1 + clients * step**2 / 12) / self.keep - 1

    def words(self, layout: Layout, ctx: CodecContext) -> int:
        """Length of the vector that `to_ring` gives."""
        return self._words(split(self._rules, layout), self.ruler(ctx).width)

    def to_ring(self, delta: Tensors, layout: Layout, ctx: CodecContext) -> Words:
        """The vector to add; LayoutError, naming the tensor, if delta does not fit or is not finite.

        A delta whose root mean square exceeds margin * scale is scaled down to it, and entries of small
        tensors are cut at +-2^8: either would wrap the sum of all. Single coordinates are not cut: what
        leaves a lane comes back in a sum that does not, and cutting gains nothing from two clients on.
        """
        parts = split(self._rules, layout)
        vector = finite(layout, layout.flatten(delta))
        large, small = gather(vector, parts.large_at), gather(vector, parts.small_at)
        ruler = self.ruler(ctx)
        packed = lanes.pack(self._quantised(large, ruler, ctx), ruler.width)
        return np.concatenate([packed, lanes.pack(_fixed_point(small, ctx), WIDE)])

    def from_ring(self, total: Words, members: Sequence[int], layout: Layout, ctx: CodecContext) -> Flat:
        """The sum of the deltas of `members`, given by the seed of each one's context.

        WireError if `total` has another length, ConfigError for more members than the context allows.
        """
        if len(members) > ctx.clients:
            raise ConfigError(f"a sum of {len(members)} updates; the context allows {ctx.clients}")
        parts, ruler = split(self._rules, layout), self.ruler(ctx)
        if len(total) != self._words(parts, ruler.width):
            raise WireError(f"{len(total)} words in the ring, {self._words(parts, ruler.width)} are due")
        cut = lanes.words(self._kept(parts.large.size), ruler.width)
        large = self._restored(total[:cut], members, parts.large.size, ruler, ctx)
        if not parts.small.size and layout.dtype == np.float32:
            return layout.view(large)
        out: NDArray[Any] = np.empty(layout.size, layout.dtype)
        scatter(large, parts.large_at, out)
        scatter(_from_fixed_point(total[cut:], members, parts.small.size, ctx), parts.small_at, out)
        return layout.view(out)

    def next_scale(self, total: Tensors, members: int, layout: Layout, ctx: CodecContext) -> float:
        """The scale for the next round's context, from the decoded sum of `members` updates.

        The errors that the codec itself has added are taken off; a scale at most halves in a round. The
        sum is extrapolated to ctx.clients.
        """
        parts = split(self._rules, layout)
        large = gather(layout.flatten(total), parts.large_at)
        if not (large.size and members):
            return 0.0
        energy = _energy(large.astype(np.float32, copy=False)) * self._kept(large.size) / large.size**2
        noise = members * self.ruler(ctx).step ** 2 / 12
        return math.sqrt(max(energy - noise, energy / 4)) * ctx.clients / members

    def encode(self, delta: Tensors, layout: Layout, ctx: CodecContext) -> bytes:
        made = self.to_ring(delta, layout, ctx)
        return frame.seal(frame.contract(self.spec, layout), made.astype("<u8", copy=False).tobytes())

    def decode(self, payload: bytes, layout: Layout, ctx: CodecContext) -> Tensors:
        size = frame.OVERHEAD + 8 * self.words(layout, ctx)
        body = frame.unseal(payload, frame.contract(self.spec, layout), size, size)
        total = np.frombuffer(body, "<u8").astype(np.uint64, copy=False)
        return self.from_ring(total, [ctx.seed], layout, ctx)

    def max_len(self, layout: Layout) -> int:
        return frame.OVERHEAD + 8 * self._words(split(self._rules, layout), WIDE)

    def min_len(self, layout: Layout) -> int:
        return frame.OVERHEAD + 8 * self._words(split(self._rules, layout), self.width)

    def size_estimate(self, layout: Layout) -> float:
        return float(self.min_len(layout))

    @property
    def _rules(self) -> TensorRules:
        return TensorRules(exempt=self.exempt)

    def _words(self, parts: Split, width: int) -> int:
        return lanes.words(self._kept(parts.large.size), width) + lanes.words(parts.small.size, WIDE)

    def _quantised(self, vector: Vector, ruler: Ruler, ctx: CodecContext) -> NDArray[np.int32]:
        """The kept coordinates in steps, as integers."""
        out = np.empty(self._kept(vector.size), np.int32)
        if not vector.size:
            return out
        rms = math.sqrt(_energy(vector) / vector.size)
        factor = np.float32(min(1.0, ruler.rms / rms if rms else 1.0) / ruler.step)
        rotation, dither = Rotation(vector.size, ctx.shared_seed), stream(ctx.seed, "dither")
        columns, spare, start = self._columns(rotation, ctx), bits.scratch(vector.size), 0
        for rows in rotation.rows(deal(vector)):
            kept = rows if self.keep == 1 else np.take(rows, columns[rows.shape[1]], axis=1)
            steps = np.multiply(kept.reshape(-1), factor * _FINE, out=spare[: kept.size])
            steps += np.frombuffer(dither.bytes(2 * kept.size), "<i2")
            steps *= 1 / _FINE
            np.rint(steps, out=steps)
            if ruler.width == WIDE:
                np.clip(steps, -_MOST, _MOST, out=steps)
            out[start : start + kept.size] = steps
            start += kept.size
        return out

    def _restored(
        self, total: Words, members: Sequence[int], d: int, ruler: Ruler, ctx: CodecContext
    ) -> Vector:
        if not d:
            return np.empty(0, np.float32)
        rotation = Rotation(d, ctx.shared_seed)
        values = lanes.unpack(total, self._kept(d), ruler.width)
        rows = self._rows(values, members, rotation, ruler, ctx)
        return collect(rotation.back(rows))

    def _rows(
        self,
        values: NDArray[np.int32],
        members: Sequence[int],
        rotation: Rotation,
        ruler: Ruler,
        ctx: CodecContext,
    ) -> Iterator[Vector]:
        """The rotated sum: integers less dithers, unwrapped, in steps."""
        dithers = [stream(seed, "dither") for seed in members]
        columns, start, ring = self._columns(rotation, ctx), 0, float(1 << ruler.width)
        room = np.empty((2, min(bits.CHUNK, rotation.size)), np.float32 if ruler.width < WIDE else np.float64)
        for count, width in rotation.shapes():
            size = count * self._share(width)
            sums, turns = room[:, :size]
            np.subtract(values[start : start + size], _shift(dithers, sums), out=sums)
            sums -= np.multiply(ring, np.rint(np.divide(sums, ring, out=turns), out=turns), out=turns)
            sums *= ruler.step * width / self._share(width)
            start += size
            kept = sums.astype(np.float32, copy=False).reshape(count, -1)
            if self.keep == 1:
                yield kept
                continue
            rows = np.zeros((count, width), np.float32)
            rows[:, columns[width]] = kept
            yield rows

    def _share(self, width: int) -> int:
        """How many coordinates of a row are kept."""
        return max(1, round(self.keep * width))

    def _kept(self, d: int) -> int:
        """How many coordinates of a vector of d entries are kept."""
        shapes = Rotation(d, 0).shapes() if d else []
        return sum(count * self._share(width) for count, width in shapes)

    def _columns(self, rotation: Rotation, ctx: CodecContext) -> dict[int, NDArray[np.int64]]:
        """The coordinates of a row that are kept, by its width: the same for the whole cohort."""
        widths = sorted({width for _, width in rotation.shapes()})
        drawn = {w: stream(ctx.shared_seed, "keep", w).choice(w, self._share(w)) for w in widths}
        return {width: np.sort(chosen) for width, chosen in drawn.items()}


def _energy(vector: Vector) -> float:
    """Sum of squares."""
    e = bits.exponent(vector)
    near_one = bits.scaled(vector, -e)
    return float(np.dot(near_one, near_one)) * 4.0 ** (8 * e)


def _shift(dithers: Sequence[Stream], out: NDArray[Any]) -> NDArray[Any]:
    """The sum of the next values of each dither, uniform in [-1/2, 1/2), into `out`."""
    out[:] = 0
    for dither in dithers:
        out += np.frombuffer(dither.bytes(2 * out.size), "<i2")
    out *= 1 / _FINE
    return out


def _fixed_step(ctx: CodecContext) -> float:
    return LARGEST / ((2**31 - 1) // ctx.clients - 1)


def _fixed_point(small: Vector, ctx: CodecContext) -> NDArray[np.int64]:
    steps = np.clip(small.astype(np.float64), -LARGEST, LARGEST) / _fixed_step(ctx)
    steps += _shift([stream(ctx.seed, "small")], np.empty(small.size))
    return np.rint(steps, out=steps).astype(np.int64)


def _from_fixed_point(total: Words, members: Sequence[int], size: int, ctx: CodecContext) -> Vector:
    shift = _shift([stream(seed, "small") for seed in members], np.empty(size))
    values = np.subtract(lanes.unpack(total, size, WIDE), shift, out=shift)
    values *= _fixed_step(ctx)
    sums: Vector = values.astype(np.float32)
    return sums
