"""PowerSGD: each matrix as a product of two thin ones (Vogels, Karimireddy, Jaggi 2019, arXiv:1905.13727).

What differs from the paper: a message stands alone. The paper starts its one step of subspace
iteration from the factor of the round before and averages factors over workers before it makes them
orthonormal; here the start is random, drawn from the seed, two steps are done, and P is orthonormal for
each client. What is decoded is P P^T M: a projection of the matrix M, so error feedback converges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedkit.codecs import bits
from fedkit.codecs.codec import CodecContext
from fedkit.codecs.framed import Framed
from fedkit.codecs.reader import Reader
from fedkit.codecs.rules import TensorRules
from fedkit.codecs.stage import Vector
from fedkit.errors import ConfigError, WireError
from fedkit.seeds import derive, stream
from fedkit.tensors import Layout

STEPS = 2
"""Steps of subspace iteration: in place of the paper's warm start."""


class Piece(NamedTuple):
    """A tensor's slice of the vector, its shape as a matrix, and its rank; rank 0: sent as bfloat16."""

    start: int
    rows: int
    columns: int
    rank: int

    @property
    def size(self) -> int:
        return self.rows * self.columns

    @property
    def nbytes(self) -> int:
        return 4 * self.rank * (self.rows + self.columns) if self.rank else 2 * self.size


@dataclass(frozen=True)
class PowerSgd(Framed):
    """A rank-`rank` approximation of each tensor, flattened to a matrix after its first axis.

    Vectors, and matrices that `rank` would not shrink, go as bfloat16. Biased: use it with error feedback.
    small, below, exempt: which tensors go around it, as in `tensors`.
    Payload: an exponent byte; for each tensor P (rows x rank) then Q (columns x rank) as float32.
    """

    id: ClassVar[str] = "powersgd"
    paper: ClassVar[str] = "Vogels et al. 2019, arXiv:1905.13727"
    unbiased: ClassVar[bool] = False
    contractive: ClassVar[bool] = True
    deterministic_decode: ClassVar[bool] = False
    rank: int = 2
    small: Literal["bfloat16", "float32"] = "bfloat16"
    below: int = 1024
    exempt: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= 64:
            raise ConfigError(f"codec 'powersgd': rank = {self.rank} must be in [1, 64]")
        object.__setattr__(self, "rules", TensorRules(self.small, self.below, self.exempt))

    def bounds(self, large: Layout) -> tuple[int, int]:
        size = 1 + sum(piece.nbytes for piece in self._pieces(large))
        return size, size

    def pack(self, vector: Vector, large: Layout, ctx: CodecContext) -> Sequence[bytes]:
        e = bits.exponent(vector)
        vector = bits.scaled(vector, -e)
        coded = [e.to_bytes(1, "little", signed=True)]
        for piece in self._pieces(large):
            part = vector[piece.start : piece.start + piece.size]
            if piece.rank:
                matrix = part.reshape(piece.rows, piece.columns)
                p, q = _factors(matrix, piece.rank, derive(ctx.seed, "start", piece.start))
                coded += [p.astype("<f4").tobytes(), q.astype("<f4").tobytes()]
            else:
                coded.append(bits.little(bits.bfloat16(part)))
        return coded

    def unpack(self, data: memoryview, large: Layout, ctx: CodecContext) -> Vector:
        reader, out = Reader(data), np.empty(large.size, np.float32)
        e = int.from_bytes(reader.take(1), "little", signed=True)
        if not -20 <= e <= 16:
            raise WireError(f"payload: exponent {e} is out of range")
        for piece in self._pieces(large):
            part = out[piece.start : piece.start + piece.size]
            if piece.rank:
                p, q = _matrix(reader, piece.rows, piece.rank), _matrix(reader, piece.columns, piece.rank)
                with np.errstate(over="ignore", invalid="ignore"):
                    np.matmul(p, q.T, out=part.reshape(piece.rows, piece.columns))
            else:
                part[:] = bits.from_bfloat16(reader.uint16(piece.size))
        reader.done()
        return bits.scaled(out, e)

    def _pieces(self, large: Layout) -> Iterator[Piece]:
        for shape, start, size in zip(large.shapes, large.offsets, large.sizes, strict=True):
            rows = shape[0] if len(shape) > 1 else 1
            columns = size // rows
            shrinks = 2 * self.rank * (rows + columns) < rows * columns
            yield Piece(start, rows, columns, self.rank if shrinks else 0)


def _factors(matrix: Vector, rank: int, seed: int) -> tuple[Vector, Vector]:
    """P with orthonormal columns, near the first left singular vectors of M, and Q = M^T P."""
    p: Vector = np.empty(0, np.float32)
    q: Vector = stream(seed).normal(matrix.shape[1] * rank).astype(np.float32).reshape(-1, rank)
    for _ in range(STEPS):
        p = np.linalg.qr((matrix @ q).astype(np.float64))[0].astype(np.float32)
        q = matrix.T @ p
    return p, q


def _matrix(reader: Reader, rows: int, columns: int) -> NDArray[np.float32]:
    return np.frombuffer(reader.take(4 * rows * columns), "<f4").astype(np.float32).reshape(rows, columns)
