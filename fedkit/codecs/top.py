"""The largest entries of a vector and where they are."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fedkit.codecs import gaps
from fedkit.codecs.reader import Reader, varint
from fedkit.codecs.stage import Vector
from fedkit.errors import WireError

_SAMPLE = 1 << 14


def count(d: int, share: float) -> int:
    """How many of d entries a share is: at least one."""
    return min(d, max(1, round(share * d)))


def positions(vector: Vector, k: int) -> NDArray[np.int64]:
    """Where the k entries of largest magnitude are, in increasing order; of equal ones the first."""
    if k >= vector.size:
        return np.arange(vector.size)
    sizes = np.abs(vector)
    reach = np.flatnonzero(sizes >= _below(sizes, k))
    found = sizes[reach]
    edge = np.partition(found, len(found) - k)[len(found) - k]
    at: NDArray[np.int64] = reach[found >= edge]
    over = len(at) - k
    if not over:
        return at
    equal = np.flatnonzero(sizes[at] == edge)
    return np.delete(at, equal[len(equal) - over :])


def _below(sizes: Vector, k: int) -> np.float32:
    """A number that at least k of the sizes reach, and not many more: guessed from a sample of them.

    Selecting among those few is ten times as fast as among all.
    """
    sample = np.sort(sizes[:: max(1, sizes.size // _SAMPLE)])
    share = k / sizes.size
    rank = len(sample) * share + 4 * math.sqrt(len(sample) * share) + 4
    guess = sample[max(0, len(sample) - math.ceil(rank))]
    return guess if np.count_nonzero(sizes >= guess) >= k else np.float32(0)


def decode(data: memoryview, d: int, k: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """k positions below d with a sign for each, piece by piece.

    WireError on bytes that `gaps.encode` cannot have made.
    """
    reader = Reader(data)
    pieces = gaps.decode(reader, d, due=k)
    reader.done()
    for at, signs in pieces:
        if (np.abs(signs) != 1).any():
            raise WireError("payload: a magnitude where a sign is due")
        yield at, signs


def max_len(d: int, k: int) -> int:
    """Upper bound of `gaps.encode` for k of d positions with signs."""
    if not k:
        return 1
    tokens = k + 16 * k // gaps.STEP + 1  # gaps are at most 16 in the mean once the raw bits are off
    deflated = tokens + tokens // 7 + 16  # 9 bits a byte are the most that fixed Huffman codes need
    raw = int((d - k) / k / 16).bit_length()
    heads = len(varint(d)) + 1 + len(varint(tokens)) + len(varint(deflated))
    return heads + deflated + 16 + raw * ((k + 7) // 8)


def entropy(d: int, k: int) -> float:
    """Bits that k random positions among d need."""
    share = k / d if d else 0.0
    if not 0 < share < 1:
        return 0.0
    return -d * (share * math.log2(share) + (1 - share) * math.log2(1 - share))
