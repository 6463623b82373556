"""The laws of codecs let good ones pass and catch each way of being bad, by the right law."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from fedkit.codecs import Codec, CodecContext, Quantizer, TensorRules, Vector, build
from fedkit.codecs.lanes import Words
from fedkit.codecs.none import Plain
from fedkit.codecs.reader import Reader
from fedkit.codecs.ring_rotq import RingRotQ
from fedkit.conformance import CODEC_LAWS, check_codec
from fedkit.conformance.codec_case import Case
from fedkit.conformance.laws import run_laws
from fedkit.errors import ConformanceError, LayoutError, WireError
from fedkit.seeds import stream
from fedkit.tensors import Flat, Layout, Tensors


class Stochastic(Codec):
    """One byte per entry, rounded at random to the grid of the largest: unbiased."""

    id: ClassVar[str] = "stochastic"
    unbiased: ClassVar[bool] = True

    def encode(self, delta: Tensors, layout: Layout, ctx: CodecContext) -> bytes:
        vector = Plain().decode(Plain().encode(delta, layout, ctx), layout, ctx)
        flat = layout.flatten(vector).astype(np.float64)
        top = float(np.abs(flat).max(initial=0.0))
        noise = stream(ctx.seed, "round").uniform(flat.size)
        steps = np.floor(flat / (top or 1.0) * 126 + noise).astype(np.int8)
        return np.float64(top).tobytes() + steps.tobytes()

    def decode(self, payload: bytes, layout: Layout, ctx: CodecContext) -> Tensors:
        if len(payload) != self.max_len(layout):
            raise WireError(f"payload has {len(payload)} bytes")
        top = float(np.frombuffer(payload, "<f8", 1)[0])
        if not 0 <= top < 3e38:
            raise WireError("payload has no scale")
        values = np.frombuffer(payload, np.int8, offset=8) / 126 * top
        if not np.isfinite(values.astype(layout.dtype)).all():
            raise WireError("payload overflows")
        return layout.view(values.astype(layout.dtype))

    def max_len(self, layout: Layout) -> int:
        return 8 + layout.size


def test_a_good_codec_passes_all_laws() -> None:
    assert check_codec(Stochastic(), seed=1) == list(CODEC_LAWS)
    assert check_codec(Plain()) == list(CODEC_LAWS)


class Nameless(Plain):
    id: ClassVar[str] = ""


class Short(Plain):
    def max_len(self, layout: Layout) -> int:
        return layout.nbytes - 1


class Narrow(Stochastic):
    def decode(self, payload: bytes, layout: Layout, ctx: CodecContext) -> Tensors:
        return {n: a.astype(np.float32) for n, a in super().decode(payload, layout, ctx).items()}


class Overflowing(Stochastic):
    unbiased: ClassVar[bool] = False

    def decode(self, payload: bytes, layout: Layout, ctx: CodecContext) -> Tensors:
        made = super().decode(payload, layout, ctx)
        with np.errstate(over="ignore"):
            return {n: (a * a.dtype.type(1e10)).astype(a.dtype) for n, a in made.items()}


class Moody(Stochastic):
    count: ClassVar[list[int]] = []

    def encode(self, delta: Tensors, layout: Layout, ctx: CodecContext) -> bytes:
        self.count.append(1)
        return super().encode(delta, layout, replace(ctx, seed=len(self.count)))


class Greedy(Plain):
    def decode(self, payload: bytes, layout: Layout, ctx: CodecContext) -> Tensors:
        return super().decode(payload[: layout.nbytes].ljust(layout.nbytes, b"\0"), layout, ctx)


class Careless(Plain):
    def decode(self, payload: bytes, layout: Layout, ctx: CodecContext) -> Tensors:
        if len(payload) != layout.nbytes:
            raise WireError("length")
        return layout.view(np.frombuffer(payload, layout.dtype))


class Crashing(Plain):
    def decode(self, payload: bytes, layout: Layout, ctx: CodecContext) -> Tensors:
        try:
            return super().decode(payload, layout, ctx)
        except WireError as error:
            raise IndexError("out of range") from error


class Silent(Plain):
    def encode(self, delta: Tensors, layout: Layout, ctx: CodecContext) -> bytes:
        return super().encode({n: np.nan_to_num(a) for n, a in delta.items()}, layout, ctx)


class Blaming(Plain):
    def encode(self, delta: Tensors, layout: Layout, ctx: CodecContext) -> bytes:
        try:
            return super().encode(delta, layout, ctx)
        except LayoutError as error:
            raise LayoutError("delta", error.reason) from error


class Padding(Plain):
    def encode(self, delta: Tensors, layout: Layout, ctx: CodecContext) -> bytes:
        vector = np.concatenate(
            [np.asarray(a).reshape(-1) for a in delta.values()] or [np.zeros(0, np.float32)]
        )
        fitted = np.resize(vector, layout.size) if vector.size else np.zeros(layout.size)
        return super().encode(layout.view(fitted.astype(layout.dtype)), layout, ctx)


class Nearest(Stochastic):
    """Rounds to the nearest step and claims to be unbiased."""

    def encode(self, delta: Tensors, layout: Layout, ctx: CodecContext) -> bytes:
        flat = layout.flatten(delta).astype(np.float64)
        top = float(np.abs(flat).max(initial=0.0))
        Plain().encode(delta, layout, ctx)
        return np.float64(top).tobytes() + np.rint(flat / (top or 1.0) * 12 + 0.3).astype(np.int8).tobytes()


@dataclass(frozen=True)
class Raw(Quantizer):
    """float32 as it is, in a pipeline: honest, and the base of the liars below."""

    id: ClassVar[str] = "raw"
    unbiased: ClassVar[bool] = False

    def max_len(self, d: int) -> int:
        return 4 * d

    def encode(self, vector: Vector, ctx: CodecContext) -> bytes:
        return vector.astype("<f4").tobytes()

    def decode(self, data: memoryview, d: int, ctx: CodecContext) -> Vector:
        reader = Reader(data)
        out = np.frombuffer(reader.take(4 * d), "<f4").astype(np.float32)
        reader.done()
        return out


class Trusting(Raw):
    """A length from the wire decides how much is made."""

    fixed_size: ClassVar[bool] = False

    def max_len(self, d: int) -> int:
        return 4 * d + 8

    def encode(self, vector: Vector, ctx: CodecContext) -> bytes:
        return len(vector).to_bytes(8, "little") + super().encode(vector, ctx)

    def decode(self, data: memoryview, d: int, ctx: CodecContext) -> Vector:
        count = int.from_bytes(data[:8], "little") & 0xFFFFFFFF
        out = np.zeros(count, np.float32)
        if count != d or len(data) != 8 + 4 * d:
            raise WireError("another length")
        out[:] = np.frombuffer(data[8:], "<f4")
        return out


class Fragile(Trusting):
    """Looks no further than the checksum."""

    def decode(self, data: memoryview, d: int, ctx: CodecContext) -> Vector:
        values = np.frombuffer(data[8:], "<f4")
        return values[np.arange(int.from_bytes(data[:3], "little"))].copy()


class Leaving(Raw):
    def decode(self, data: memoryview, d: int, ctx: CodecContext) -> Vector:
        if d and not np.isfinite(np.frombuffer(data, "<f4")).all():
            raise SystemExit(0)
        return super().decode(data, d, ctx)


class LeavingEarly(Plain):
    def decode(self, payload: bytes, layout: Layout, ctx: CodecContext) -> Tensors:
        if len(payload) != layout.nbytes:
            raise SystemExit(0)
        return super().decode(payload, layout, ctx)


class Scribbling(Raw):
    def encode(self, vector: Vector, ctx: CodecContext) -> bytes:
        made = super().encode(vector, ctx)
        vector *= 0
        return made


class Rememberer(Raw):
    """What it makes of a delta depends on the one before."""

    last: ClassVar[list[float]] = [0.0]

    def encode(self, vector: Vector, ctx: CodecContext) -> bytes:
        made = super().encode(vector + np.float32(self.last[0]), ctx)
        self.last[0] = float(vector[0])
        return made


class Expanding(Raw):
    contractive: ClassVar[bool] = True

    def decode(self, data: memoryview, d: int, ctx: CodecContext) -> Vector:
        return -3 * super().decode(data, d, ctx)


class Modest(Raw):
    worst_nmse: ClassVar[float] = 0.01

    def decode(self, data: memoryview, d: int, ctx: CodecContext) -> Vector:
        return np.float32(0.5) * super().decode(data, d, ctx)


class ShortWhenLarge(Raw):
    def max_len(self, d: int) -> int:
        return 4 * d if d < 5000 else 4


class Boundless(Plain):
    fixed_size: ClassVar[bool] = False

    def max_len(self, layout: Layout) -> int:
        return 10**15


class Estimating(Raw):
    def size_estimate(self, d: int) -> float:
        return float("nan")


class Salted(Raw):
    def encode(self, vector: Vector, ctx: CodecContext) -> bytes:
        return super().encode(vector * np.float32(1 + hash("salt") % 2**16 / 2**17), ctx)


class Local(Raw):
    def decode(self, data: memoryview, d: int, ctx: CodecContext) -> Vector:
        return super().decode(data, d, ctx) * np.float32(1 + os.getpid() / 1e5)


class Budgeting(Raw):
    def decode(self, data: memoryview, d: int, ctx: CodecContext) -> Vector:
        return super().decode(data, d, ctx) * np.float32(1 + ctx.budget)


class Dated(Raw):
    @property
    def spec(self) -> str:
        return f"dated/1:{time.perf_counter_ns()}"


class Shrinking(Raw):
    """A fifth is missing in the mean, under noise that is three times as large as the entries."""

    unbiased: ClassVar[bool] = True

    def encode(self, vector: Vector, ctx: CodecContext) -> bytes:
        rms = np.sqrt(np.square(vector).mean()) if vector.size else 0.0
        noise = stream(ctx.seed, "noise").normal(vector.size)
        return super().encode((0.8 * (vector + 3 * rms * noise)).astype(np.float32), ctx)


class Lopsided(Shrinking):
    """The mean is right along the delta, and off elsewhere."""

    def encode(self, vector: Vector, ctx: CodecContext) -> bytes:
        rms = np.sqrt(np.square(vector).mean()) if vector.size else 0.0
        noise = stream(ctx.seed, "noise").normal(vector.size) + np.where(
            np.arange(vector.size) % 2, 0.3, -0.3
        )
        return Raw.encode(self, (vector + rms * noise).astype(np.float32), ctx)


class RinglessRing(Plain):
    ring: ClassVar[bool] = True


class Forgetful(RingRotQ):
    """Takes the dither of the first member off, and no other's."""

    def from_ring(self, total: Words, members: Sequence[int], layout: Layout, ctx: CodecContext) -> Flat:
        return super().from_ring(total, members[:1], layout, ctx)


def piped(*quantizers: Quantizer) -> list[Codec]:
    return [build([TensorRules(), quantizer], "it") for quantizer in quantizers]


def test_an_honest_quantizer_passes_too() -> None:
    for codec in piped(Raw()):
        assert check_codec(codec) == list(CODEC_LAWS)


BAD_CODECS: list[tuple[Codec, str]] = [
    (Nameless(), "has an id and a version"),
    (Short(), "decodes to the layout, within the declared lengths"),
    (Narrow(), "decodes to the layout, within the declared lengths"),
    (Overflowing(), "survives edge values"),
    (Moody(), "is deterministic and leaves the delta alone"),
    (Greedy(), "refuses payloads of another length"),
    (Careless(), "refuses garbage with WireError only"),
    (Crashing(), "refuses garbage with WireError only"),
    (Silent(), "refuses values that are not finite, naming the tensor"),
    (Blaming(), "refuses values that are not finite, naming the tensor"),
    (Padding(), "refuses another layout"),
    (Nearest(), "is unbiased if it says so"),
    (LeavingEarly(), "refuses payloads of another length"),
    (Boundless(), "declares lengths that are worth something"),
    (RinglessRing(), "adds up if it says so"),
    (Forgetful(), "adds up if it says so"),
    *((codec, "refuses garbage with WireError only") for codec in piped(Trusting(), Fragile(), Leaving())),
    *(
        (codec, "is deterministic and leaves the delta alone")
        for codec in piped(Scribbling(), Rememberer(), Budgeting())
    ),
    *((codec, "errs no more than it says") for codec in piped(Expanding(), Modest())),
    *((codec, "decodes to the layout, within the declared lengths") for codec in piped(ShortWhenLarge())),
    *((codec, "declares lengths that are worth something") for codec in piped(Estimating())),
    *((codec, "is the same in another process") for codec in piped(Salted(), Local())),
    *((codec, "has an id and a version") for codec in piped(Dated())),
    *((codec, "is unbiased if it says so") for codec in piped(Shrinking(), Lopsided())),
]


@pytest.mark.parametrize(
    ("codec", "law"), BAD_CODECS, ids=lambda v: type(getattr(v, "quantizer", v)).__name__
)
def test_a_bad_codec_is_caught_by_the_law_it_breaks(codec: Codec, law: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        run_laws({law: CODEC_LAWS[law]}, Case(codec, 0))
    assert caught.value.law == law
    with pytest.raises(ConformanceError):
        check_codec(codec)


def test_every_law_of_codecs_can_be_broken() -> None:
    assert {law for _, law in BAD_CODECS} == set(CODEC_LAWS)
