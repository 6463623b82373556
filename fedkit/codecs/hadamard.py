"""Random rotation: sign flips, then the Walsh-Hadamard transform in blocks, as small matrix products.

A block of 4096 is three products with the 16 x 16 matrix: 1.2 ns a coordinate on one core. The
transform is orthonormal. A vector whose length is no multiple of the block is not padded: its first
block is rotated, then all blocks counted from the end, so that only the head of the first stays out
of the second pass (its entries are rotated too).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np

from fedkit.codecs.bits import CHUNK
from fedkit.codecs.stage import Vector
from fedkit.seeds import Stream, stream

BLOCK = 4096
SIGNS = (2.0 * ((np.arange(256)[:, None] >> np.arange(8)) & 1) - 1.0).astype(np.float32)
"""Row b: the bits of the byte b, low bit first, as signs."""


@cache
def matrix(n: int) -> Vector:
    """The Hadamard matrix of order n, a power of two (Sylvester's construction)."""
    if n == 1:
        return np.ones((1, 1), np.float32)
    half = matrix(n // 2)
    return np.block([[half, half], [half, -half]])


def walsh(rows: Vector) -> Vector:
    """The Walsh-Hadamard transform of each row, not normalised; rows are a power of two long."""
    count, n = rows.shape
    spare = (np.empty_like(rows), np.empty_like(rows))
    inner, turn = 1, 0
    while inner < n:
        factor, out = min(16, n // inner), spare[turn]
        if inner == 1:  # in batches too: one large product would go through the threads of BLAS
            shape = (count, n // factor, factor)
            np.matmul(rows.reshape(shape), matrix(factor), out=out.reshape(shape))
        else:
            shape = (count * n // (inner * factor), factor, inner)
            np.matmul(matrix(factor), rows.reshape(shape), out=out.reshape(shape))
        rows, inner, turn = out, inner * factor, 1 - turn
    return rows


def expand(table: Vector, packed: bytes | memoryview, count: int) -> Vector:
    """The first `count` values for packed bits, 8 to each row of a table of 256."""
    drawn = np.frombuffer(packed, np.uint8)
    return np.take(table, drawn, axis=0, mode="clip").reshape(-1)[:count]


class Rotation:
    """An orthonormal rotation of vectors of d >= 1 entries, fixed by a seed.

    `rows` gives the rotated vector as rows to be coded together: the head, if there is one, as one
    row of `head` entries, then rows of `block` entries in chunks. `back` takes them in this order.
    """

    def __init__(self, d: int, seed: int, block: int = BLOCK) -> None:
        self.size, self._seed = d, seed
        self.block = min(block, 1 << (d.bit_length() - 1))
        self.head = d % self.block
        self._table = SIGNS * np.float32(self.block**-0.5)

    def shapes(self) -> list[tuple[int, int]]:
        """The shape of each array of rows."""
        head = [(1, self.head)] if self.head else []
        return head + [((high - low) // self.block, self.block) for low, high in self._chunks()]

    def rows(self, vector: Vector) -> Iterator[Vector]:
        """The rotated vector; `vector` is left as it is."""
        signs, first = stream(self._seed, "signs"), vector[:0]
        if self.head:
            turned = self._turn(vector[: self.block], signs)[0]
            yield turned[None, : self.head]
            first = turned[self.head :]
        for low, high in self._chunks():
            piece = vector[low:high]
            if low == self.head and self.head:
                piece = np.concatenate([first, piece[len(first) :]])
            yield self._turn(piece, signs)

    def back(self, rows: Iterable[Vector]) -> Vector:
        """The vector whose rotation the rows are."""
        out, signs, source = np.empty(self.size, np.float32), stream(self._seed, "signs"), iter(rows)
        first = self._draw(signs, self.block) if self.head else out[:0]
        if self.head:
            out[: self.head] = next(source)[0]
        for low, high in self._chunks():
            turned = walsh(next(source)).reshape(-1)
            np.multiply(turned, self._draw(signs, high - low), out=out[low:high])
        if self.head:
            out[: self.block] = walsh(out[None, : self.block])[0] * first
        return out

    def _chunks(self) -> Iterator[tuple[int, int]]:
        for low in range(self.head, self.size, CHUNK):
            yield low, min(low + CHUNK, self.size)

    def _turn(self, piece: Vector, signs: Stream) -> Vector:
        flipped = self._draw(signs, piece.size)
        flipped *= piece
        return walsh(flipped.reshape(-1, self.block))

    def _draw(self, signs: Stream, count: int) -> Vector:
        """Random signs times the norm of the transform, one bit each."""
        return expand(self._table, signs.bytes((count + 7) // 8), count)
