"""Which ciphers a session uses, and where its secrets come from."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import IntEnum
from typing import Final

Random = Callable[[int], bytes]
"""Gives so many random bytes. `os.urandom` in production; a seeded one makes a simulation repeatable."""

RANDOM: Final[Random] = os.urandom
SECRET_BYTES = 32


class Suite(IntEnum):
    """Ciphers of one session, agreed in its header.

    AES: masks from AES-128-CTR, boxes of AES-256-GCM. CHACHA, for clients without AES instructions: masks
    from ChaCha20, boxes of ChaCha20-Poly1305.
    """

    AES = 1
    CHACHA = 2

    @property
    def mask_bytes(self) -> int:
        """Length of the key of a mask."""
        return 16 if self is Suite.AES else 32


def draw(random: Random, count: int) -> bytes:
    """`count` bytes from `random`. ValueError: it gave another number of them."""
    made = random(count)
    if len(made) != count:
        raise ValueError(f"the random source gave {len(made)} bytes instead of {count}")
    return made
