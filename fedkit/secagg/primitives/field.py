"""Finite fields GF(2^bits) with tables of logarithms: products of many elements at a time.

An element is an unsigned integer whose bits are the coefficients of a polynomial over GF(2), modulo the
field's own. Addition is exclusive or.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Elements: TypeAlias = NDArray[np.unsignedinteger[Any]]
Logs: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Field:
    """GF(2^bits) for bits of 8 or 16; `polynomial` is irreducible of that degree."""

    bits: int
    polynomial: int

    @property
    def order(self) -> int:
        """How many elements are not zero; logarithms count modulo this."""
        return (1 << self.bits) - 1

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """How an element is stored: little-endian."""
        return np.dtype("<u1" if self.bits == 8 else "<u2")

    def log(self, elements: Elements) -> Logs:
        """Logarithms. Zero has 2 * order, whose sum with any other logarithm below it is told by `exp`."""
        return self._tables[0].take(elements)

    def exp(self, logs: Logs) -> Elements:
        """Powers of the generator: logs below 2 * order; zero from there to below 4 * order + 1."""
        return self._tables[1].take(logs)

    def dot(self, logs: Logs, rows: Elements) -> Elements:
        """Sum over j of exp(logs[j]) * rows[j]; logs below 2 * order, broadcast against each row."""
        total = np.zeros(np.broadcast_shapes(logs.shape[1:], rows.shape[1:]), self.dtype)
        for weight, row in zip(logs, rows, strict=True):
            total ^= self.exp(weight + self.log(row))
        return total

    @cached_property
    def _tables(self) -> tuple[Logs, Elements]:
        powers = self._powers()
        log = np.empty(self.order + 1, np.int64)
        log[powers] = np.arange(self.order)
        log[0] = 2 * self.order
        zeros = np.zeros(2 * self.order + 1, self.dtype)
        return log, np.concatenate([powers, powers, zeros])

    def _powers(self) -> Elements:
        """All elements but zero as powers of the smallest generator."""
        for generator in range(2, self.order + 1):
            powers = self._cycle(generator)
            if len(np.unique(powers)) == self.order:
                return powers
        raise ValueError(f"{self.polynomial:#x} is no irreducible polynomial of degree {self.bits}")

    def _cycle(self, generator: int) -> Elements:
        """generator^0 ... generator^(order - 1): each turn doubles what there is."""
        powers = np.ones(1, np.int64)
        step = generator  # generator^len(powers)
        while len(powers) < self.order:
            powers = np.concatenate([powers, self._times(powers, step)])
            step = int(self._times(np.array([step]), step)[0])
        return powers[: self.order].astype(self.dtype)

    def _times(self, elements: NDArray[np.int64], factor: int) -> NDArray[np.int64]:
        """Products with `factor`, bit by bit: what the tables are made with."""
        product = np.zeros_like(elements)
        for bit in reversed(range(self.bits)):
            product <<= 1
            product ^= np.where(product >> self.bits, self.polynomial, 0)
            if factor >> bit & 1:
                product ^= elements
        return product


GF256 = Field(8, 0x11B)
GF65536 = Field(16, 0x1100B)
