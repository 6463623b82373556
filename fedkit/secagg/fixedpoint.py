"""Weighted vectors as lanes of 32 or 64 bits whose modular sum is the sum: the exact encoder.

64 bits: a lane is the integer that `Grid.quantise` makes, so a secure sum equals the plain one bit for bit.

32 bits: as many bits after the point as leave room for `clients` updates of the largest size, so that no
sum wraps. What is cut off is rounded up or down at random, by the seed of the client's task: without that
each entry below half a unit would be lost from every client, and no number of clients would bring it back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedkit.aggregate import Grid
from fedkit.errors import ConfigError
from fedkit.secagg.parameters import MOST
from fedkit.seeds import Stream

if TYPE_CHECKING:
    from fractions import Fraction

LEAST = 4
"""Bits after the point of a weighted entry: the mean of 100 clients of weight 16 is then 2e-4 off, as a
root mean square."""
_BLOCK = 32768  # as in aggregate: the float64 buffer stays in the second-level cache
_SLACK = 1 + 2.0**-20  # weights and bounds may be rounded up to float32


@dataclass(frozen=True)
class FixedPoint:
    """The lanes of one vector of a session.

    clients: the most vectors in one sum. largest: the largest weight of a vector. ConfigError, naming the
    keys, where 32 bits leave fewer than `LEAST` after the point, or the grid has no room for the clients.
    """

    grid: Grid
    width: Literal[32, 64]
    clients: int
    largest: float

    def __post_init__(self) -> None:
        if self.width not in (32, 64):
            raise ConfigError(f"secagg.width = {self.width}: must be 32 or 64")
        room = min(self.grid.n_max, MOST)
        if not 1 <= self.clients <= room:
            raise ConfigError(f"a secure sum of {self.clients} updates: there is room for 1 to {room}")
        if self.width == 32 and self.fraction < LEAST:
            raise ConfigError(self._too_coarse())

    @cached_property
    def fraction(self) -> int:
        """Bits after the point of a weighted entry; at most those of the grid."""
        if self.width == 64:
            return self.grid.fraction
        from fractions import Fraction  # a megabyte, which a device can do without

        size = Fraction(float(self.grid.max_delta)) * Fraction(float(self.largest)) * Fraction(_SLACK)
        return min(_log2(self.most / size), self.grid.fraction)

    @property
    def most(self) -> int:
        """The largest integer that each client may put in a lane of 32 bits: no sum wraps."""
        return (2**31 - 1) // self.clients

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """uint32 or uint64."""
        return np.dtype(f"uint{self.width}")

    def encode(
        self,
        vector: NDArray[Any],
        weight: float,
        rounding: Stream,
        into: NDArray[np.unsignedinteger[Any]],
    ) -> None:
        """weight * vector as lanes in `into`, which holds zeros.

        `vector` has passed `Grid.check`, and `weight` is a float32 value up to `largest`. rounding: the
        client's own; unused with 64 bits.
        """
        if self.width == 64:
            self.grid.quantise(vector, weight, into.view(np.int64))
            return
        out, factor = into.view(np.int32), math.ldexp(weight, self.fraction)
        buffer = np.empty(min(_BLOCK, vector.size), np.float64)
        for start in range(0, vector.size, _BLOCK):
            part = vector[start : start + _BLOCK]
            block = buffer[: part.size]
            block[:] = part  # to float64 first, as in Grid.quantise
            block *= factor
            block += _shift(rounding, part.size)
            out[start : start + part.size] = np.rint(block, out=block)

    def decode(self, total: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.int64]:
        """The sum of lanes as integers of the grid."""
        signed = total.view(f"int{self.width}").astype(np.int64)
        signed <<= self.grid.fraction - self.fraction
        return signed

    def bound(self, clients: int, weight: float) -> float:
        """How far an entry of the mean of `clients` updates, of `weight` together, is off at most.

        Measured from the mean of the plain sum, before it is rounded to the layout's dtype. The root mean
        square is at most 1 / (2 sqrt(clients)) of it.
        """
        units = math.ldexp(1.0, -self.fraction) if self.width == 32 else 0.0
        return clients * units / weight

    def _too_coarse(self) -> str:
        room = math.ldexp(self.most / (self.largest * _SLACK), -LEAST)
        return (
            f"secagg.width = 32 with aggregate.max_delta = {self.grid.max_delta:g}: weights up to "
            f"{self.largest:g} in a sum of {self.clients} updates leave {self.fraction} bits after the "
            f"point, {LEAST} are needed: set aggregate.max_delta to {_rounded(room)} or lower, or "
            "secagg.width to 64"
        )


def _shift(rounding: Stream, count: int) -> NDArray[np.float64]:
    """Uniform in (-1/2, 1/2), symmetric, and never so near to 1/2 that an integer would move."""
    drawn = np.frombuffer(rounding.bytes(2 * count), "<i2").astype(np.float64)
    drawn += 0.5
    drawn *= 2.0**-16
    return drawn


def _log2(ratio: Fraction) -> int:
    """The largest integer e with 2^e <= ratio."""
    guess = ratio.numerator.bit_length() - ratio.denominator.bit_length()
    return guess if ratio >= type(ratio)(2) ** guess else guess - 1


def _rounded(room: float) -> str:
    """Two digits, rounded down."""
    digits = 1 - math.floor(math.log10(room))
    return f"{math.floor(room * 10.0**digits) / 10.0**digits:g}"
