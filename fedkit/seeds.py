"""One root seed, a named stream for each purpose.

`derive(root, "train", round, client)` is SHA-256 over an unambiguous encoding of the path, so a
stream depends on its name alone: not on the order in which streams are made, nor on the platform.
`Stream` reads the AES-128-CTR key stream of such a seed (NIST SP 800-38A): the same bits everywhere.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

SEED_BITS = 64


def derive(root: int, *path: str | int) -> int:
    """A 64-bit seed for `path` under `root`.

    >>> derive(0, "train", 1, "a") == derive(0, "train", 1, "a")
    True
    >>> derive(0, "train", 1) == derive(0, "train", "1")
    False
    """
    return int.from_bytes(_digest(root, path)[:8], "little")


def _digest(root: int, path: tuple[str | int, ...]) -> bytes:
    parts = [f"i{root}"] + [f"i{p}" if isinstance(p, int) else f"s{len(p)}:{p}" for p in path]
    return hashlib.sha256("|".join(parts).encode()).digest()


class Stream:
    """Random numbers from AES-128-CTR keyed by SHA-256 of a seed; portable bit for bit.

    `uniform`, `integers`, `permutation` and `choice` use integer arithmetic and exact float64
    operations only. `normal` goes through log and cos, whose last bit may differ between C libraries.
    """

    def __init__(self, seed: int) -> None:
        key = hashlib.sha256(b"fedkit/stream/1" + seed.to_bytes(16, "little")).digest()
        cipher = Cipher(algorithms.AES(key[:16]), modes.CTR(key[16:]))
        self._encrypt = cipher.encryptor()

    def bytes(self, count: int) -> bytes:
        """The next `count` bytes of the key stream."""
        return self._encrypt.update(bytes(count))

    def uint64(self, count: int) -> NDArray[np.uint64]:
        """`count` uniform 64-bit integers."""
        return np.frombuffer(self.bytes(8 * count), dtype="<u8").astype(np.uint64, copy=False)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """`count` float64 values in [0, 1), multiples of 2^-53."""
        return (self.uint64(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def random(self) -> float:
        """One float in [0, 1)."""
        return float(self.uniform(1)[0])

    def normal(self, count: int) -> NDArray[np.float64]:
        """`count` standard normal values (Box and Muller 1958)."""
        half = (count + 1) // 2
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(half)))
        angle = 2.0 * math.pi * self.uniform(half)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]

    def integers(self, low: int, high: int, count: int) -> NDArray[np.int64]:
        """`count` integers in [low, high); the bias is below (high - low) / 2^53."""
        if high <= low:
            raise ValueError(f"empty range [{low}, {high})")
        return low + np.floor(self.uniform(count) * (high - low)).astype(np.int64)

    def permutation(self, count: int) -> NDArray[np.int64]:
        """A uniform permutation of range(count)."""
        return np.argsort(self.uint64(count), kind="stable").astype(np.int64, copy=False)

    def choice(self, count: int, take: int) -> NDArray[np.int64]:
        """`take` distinct members of range(count), in random order."""
        if not 0 <= take <= count:
            raise ValueError(f"cannot take {take} of {count}")
        return self.permutation(count)[:take]


def stream(root: int, *path: str | int) -> Stream:
    """The stream named by `path` under `root`."""
    return Stream(derive(root, *path))
