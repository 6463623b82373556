"""What a secure sum takes at least: the formulas of its design, of what nobody gets by without.

Seconds on one core of a quiet machine: key streams and additions at the speed of the cache, agreements,
signatures, sharing; reading and writing of messages, graph and Python are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedkit.secagg.estimate import vector_bytes
from fedkit.secagg.parameters import Parameters

STREAM = 9e9  # bytes of masks per second: made and added
REMOVE = 9.2e9
AGREE = 50e-6
VERIFY = 68e-6
BOX = 3e-6
UNMASK = 30e-6  # per mask that is rebuilt: agreement and key
HASH = 2e10  # bytes per second
SHARE = 4.5e-9  # a product in GF(2^16)
REBUILD = 6.1e-9
SYMBOLS = 16  # of a secret of 32 bytes


@dataclass(frozen=True)
class Floor:
    """CPU seconds of one client, of the server."""

    client: float
    server: float


def floor(made: Parameters, size: int, width: int, lost: float) -> Floor:
    """The floor of a sum of `size` numbers at `width` bits, a share `lost` after sharing."""
    n, k, t, vector = made.clients, made.neighbours, made.threshold, vector_bytes(size, width)
    dropped = round(n * lost)
    masks = dropped * k * (1 - lost)
    server = (n - dropped + masks) * vector / REMOVE + masks * UNMASK + n * (VERIFY + vector / HASH)
    return Floor(
        (k + 1) * vector / STREAM
        + k * (2 * AGREE + 2 * VERIFY + BOX)
        + 2 * SYMBOLS * made.holders * t * SHARE,
        server + n * SYMBOLS * t * REBUILD,
    )
