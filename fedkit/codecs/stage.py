"""The stages of a pipeline: transforms of a float32 vector, then one quantizer.

A stage is a frozen dataclass whose fields are the parameters of its spec string. Its context holds
seeds of its own. Vectors that reach a quantizer are finite, with a peak in [2^-40, 2^40] or 0.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkit.codecs.codec import CodecContext, Described
from fedkit.errors import ConfigError, WireError

Vector: TypeAlias = NDArray[np.float32]


class Stage(Described):
    """What transforms and quantizers share: lengths for vectors of d entries."""

    @abstractmethod
    def max_len(self, d: int) -> int:
        """Upper bound of the bytes that the stage sends."""

    def min_len(self, d: int) -> int:
        """Lower bound of the bytes that the stage sends."""
        return self.max_len(d) if self.fixed_size else 0

    def size_estimate(self, d: int) -> float:
        """Expected number of bytes for a heavy-tailed delta."""
        return float(self.max_len(d))

    def nmse(self, d: int) -> float | None:
        """Expected |decoded - x|^2 / |x|^2, None where it depends on x too much for a formula."""
        return None

    def check(self, name: str, low: float, high: float) -> None:
        """ConfigError unless the parameter `name` is in [low, high]."""
        value = getattr(self, name)
        if not low <= value <= high:
            raise ConfigError(f"codec stage {self.id!r}: {name} = {value} must be in [{low:g}, {high:g}]")


class Transform(Stage):
    """A vector into another of known length, with side bytes, and back. Sends nothing by default."""

    def out_len(self, d: int) -> int:
        """The length of what `forward` gives."""
        return d

    def max_len(self, d: int) -> int:
        return 0

    @abstractmethod
    def forward(self, vector: Vector, ctx: CodecContext) -> tuple[Vector, bytes]:
        """The vector for the next stage, and the side bytes. `vector` is left as it is."""

    @abstractmethod
    def inverse(self, vector: Vector, side: memoryview, d: int, ctx: CodecContext) -> Vector:
        """A vector of d entries; WireError on side bytes that `forward` cannot have made."""


class Quantizer(Stage):
    """A vector into bytes and back; its entropy coder is part of it."""

    @abstractmethod
    def encode(self, vector: Vector, ctx: CodecContext) -> bytes:
        """The bytes. `vector` is left as it is."""

    @abstractmethod
    def decode(self, data: memoryview, d: int, ctx: CodecContext) -> Vector:
        """A fresh vector of d entries; WireError on bytes that `encode` cannot have made."""

    def relative(self, data: memoryview, held: memoryview, d: int) -> bytes | None:
        """What tells `data` to one who holds `held`, both made by `encode`; None where there is no way to."""
        return None

    def absolute(self, data: memoryview, held: memoryview, d: int) -> bytes:
        """Bytes that decode as those that `relative` told; WireError on what it cannot have made."""
        raise WireError(f"{self.id!r} tells no payload by another")
