"""The outer half of every lossy codec: finite check, small tensors apart, the frame around the rest."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkit.codecs import bits, frame
from fedkit.codecs.codec import Codec, CodecContext
from fedkit.codecs.reader import Reader
from fedkit.codecs.rules import Split, TensorRules, gather, scatter, split
from fedkit.codecs.stage import Vector
from fedkit.errors import LayoutError, WireError
from fedkit.seeds import stream
from fedkit.tensors import Layout, Tensors

LARGEST = 2.0**100
"""Larger magnitudes are refused: their squares and rotations would leave float32."""
_MAX = float(np.finfo(np.float32).max)


class Framed(Codec):
    """A codec of large tensors. Subclasses pack one float32 vector, the large tensors in turn.

    Everything is coded from float32; float64 tensors come back as float64.
    """

    rules: TensorRules
    """How small and exempt tensors travel: a field or a class attribute of the subclass."""

    @abstractmethod
    def pack(self, vector: Vector, large: Layout, ctx: CodecContext) -> Sequence[bytes]:
        """The parts of the bytes of a finite vector laid out as `large`, which is not empty."""

    @abstractmethod
    def unpack(self, data: memoryview, large: Layout, ctx: CodecContext) -> Vector:
        """The vector; WireError on bytes that `pack` cannot have made."""

    @abstractmethod
    def bounds(self, large: Layout) -> tuple[int, int]:
        """The least and the largest number of bytes that `pack` gives."""

    def tell(self, data: memoryview, held: memoryview, large: Layout) -> bytes | None:
        """What tells the bytes `data` of `pack` to one who holds `held`; None where there is no way to."""
        return None

    def heard(self, data: memoryview, held: memoryview, large: Layout) -> bytes:
        """Bytes that unpack as those that `tell` told; WireError on what it cannot have made."""
        raise WireError(f"codec {self.id!r} tells no payload by another")

    def estimate(self, large: Layout) -> float:
        """Expected number of bytes that `pack` gives."""
        return float(self.bounds(large)[1])

    def encode(self, delta: Tensors, layout: Layout, ctx: CodecContext) -> bytes:
        parts = split(self.rules, layout)
        vector = finite(layout, layout.flatten(delta))
        small = self._small(gather(vector, parts.small_at), ctx)
        large = gather(vector, parts.large_at)
        body = self.pack(large, parts.large, ctx.at("large")) if large.size else ()
        return frame.seal(frame.contract(self.spec, layout), small, *body)

    def decode(self, payload: bytes, layout: Layout, ctx: CodecContext) -> Tensors:
        parts = split(self.rules, layout)
        low, high = self._lengths(layout, parts)
        reader = Reader(frame.unseal(payload, frame.contract(self.spec, layout), low, high))
        small = self._from_small(reader, parts.small.size)
        rest = reader.rest()
        with np.errstate(over="ignore", invalid="ignore"):  # made-up scales may overflow: refused below
            large = self.unpack(rest, parts.large, ctx.at("large")) if parts.large.size else _empty(rest)
        if not (bits.within(small, _MAX) and bits.within(large, _MAX)):
            raise WireError("payload: decodes to values that are not finite")
        if not parts.small.size and layout.dtype == np.float32:
            return layout.view(large)
        vector: NDArray[Any] = np.empty(layout.size, layout.dtype)
        scatter(small, parts.small_at, vector)
        scatter(large, parts.large_at, vector)
        return layout.view(vector)

    def relative(self, payload: bytes, held: bytes, layout: Layout) -> bytes | None:
        parts, (body, known) = split(self.rules, layout), (self._body(one, layout) for one in (payload, held))
        if not parts.large.size:
            return None
        cut = self.rules.width * parts.small.size
        told = self.tell(body[cut:], known[cut:], parts.large)
        return None if told is None else bytes(body[:cut]) + told

    def absolute(self, data: bytes, held: bytes, layout: Layout) -> bytes:
        parts, known = split(self.rules, layout), self._body(held, layout)
        cut = self.rules.width * parts.small.size
        reader = Reader(data)
        small = reader.take(cut)
        made = self.heard(reader.rest(), known[cut:], parts.large)
        return frame.seal(frame.contract(self.spec, layout), bytes(small), made)

    def _body(self, payload: bytes, layout: Layout) -> memoryview:
        return frame.unseal(
            payload, frame.contract(self.spec, layout), self.min_len(layout), self.max_len(layout)
        )

    def max_len(self, layout: Layout) -> int:
        return self._lengths(layout, split(self.rules, layout))[1]

    def min_len(self, layout: Layout) -> int:
        return self._lengths(layout, split(self.rules, layout))[0]

    def size_estimate(self, layout: Layout) -> float:
        parts = split(self.rules, layout)
        large = self.estimate(parts.large) if parts.large.size else 0.0
        return frame.OVERHEAD + self.rules.width * parts.small.size + large

    def _lengths(self, layout: Layout, parts: Split) -> tuple[int, int]:
        fixed = frame.OVERHEAD + self.rules.width * parts.small.size
        low, high = self.bounds(parts.large) if parts.large.size else (0, 0)
        return fixed + low, fixed + high

    def _small(self, values: Vector, ctx: CodecContext) -> bytes:
        if self.rules.small == "float32":
            return values.astype("<f4", copy=False).tobytes()
        if self.unbiased:
            return bits.little(bits.bfloat16_stochastic(values, stream(ctx.seed, "small")))
        return bits.little(bits.bfloat16(values))

    def _from_small(self, reader: Reader, count: int) -> Vector:
        if self.rules.small == "float32":
            return np.frombuffer(reader.take(4 * count), "<f4").astype(np.float32, copy=False)
        return bits.from_bfloat16(reader.uint16(count))


def finite(layout: Layout, vector: NDArray[Any]) -> Vector:
    """float32 of the vector; LayoutError, naming the tensor, on a value that cannot be encoded."""
    with np.errstate(over="ignore", under="ignore"):
        cast = vector.astype(np.float32, copy=False)
    if bits.within(cast, LARGEST):
        return cast
    index = int(np.argmin(np.abs(cast) <= LARGEST))
    wrong = "" if not math.isfinite(vector[index]) else "; magnitudes above 2^100 cannot be encoded"
    raise LayoutError(layout.locate(index), f"holds {vector[index]}{wrong}")


def _empty(rest: memoryview) -> Vector:
    if len(rest):
        raise WireError(f"payload: {len(rest)} bytes too many")
    return np.empty(0, np.float32)
