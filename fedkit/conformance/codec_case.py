"""A codec under test, its contexts and its deltas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedkit.codecs import Codec, CodecContext
from fedkit.conformance.laws import demand
from fedkit.seeds import derive, stream
from fedkit.tensors import Flat, Layout, Tensors, sealed_copy

LARGE, HUGE = 4097, 140_001
"""Sizes of single tensors: one block and an entry, and more than a chunk."""
KINDS = ("normal", "heavy", "sparse", "spike")


@dataclass(frozen=True)
class Case:
    """A codec and a seed."""

    codec: Codec
    seed: int

    def context(
        self, number: int = 0, *, budget: int = 0, scale: float = 0.0, clients: int = 1
    ) -> CodecContext:
        """The context of one encoding; numbers below `clients` share a round."""
        seed, round = derive(self.seed, "codec", number), number // clients
        return CodecContext(seed, derive(self.seed, "shared", round), scale, budget, clients)

    def delta(self, size: int, dtype: str = "float32") -> Flat:
        """Normal values in a matrix and a vector; `size` entries in all."""
        rows = size // 3
        layout = Layout(("matrix", "vector"), ((3, rows), (size - 3 * rows,)), (dtype, dtype))
        drawn = stream(self.seed, "delta", size).normal(size).astype(dtype)
        return sealed_copy(layout.view(drawn), layout)

    def single(self, size: int, kind: str = "normal", number: int = 0) -> Flat:
        """One tensor of one of KINDS."""
        layout = Layout(("whole",), ((size,),), ("float32",))
        drawn = values(kind, size, self.seed, number).astype(np.float32)
        return sealed_copy(layout.view(drawn), layout)

    def there_and_back(self, delta: Flat, number: int = 0) -> Tensors:
        """decode(encode(delta)), its length checked on the way."""
        payload = self.codec.encode(delta, delta.layout, self.context(number))
        low, high = self.codec.min_len(delta.layout), self.codec.max_len(delta.layout)
        demand(isinstance(payload, bytes), f"the payload is {type(payload).__name__}, not bytes")
        size = delta.layout.size
        demand(
            low <= len(payload) <= high, f"{len(payload)} bytes for {size} entries, not in [{low}, {high}]"
        )
        if self.codec.fixed_size:
            demand(low == high, f"fixed_size is True, but lengths for {size} entries are in [{low}, {high}]")
        return self.codec.decode(payload, delta.layout, self.context(number))


def values(kind: str, size: int, *path: int) -> NDArray[np.float64]:
    """Normal values; signed 2.4th powers of them, as deltas have; one in a hundred of them; one alone."""
    normal = stream(path[0], kind, size, *path[1:]).normal(size)
    if kind == "heavy":
        return np.sign(normal) * np.abs(normal) ** 2.4
    if kind == "sparse":
        return np.where(np.arange(size) % 101 == 50, normal, 0.0)
    return np.where(np.arange(size) == size - 1, 3.0, 0.0) if kind == "spike" else normal
