"""A fixed permutation that mixes tensors: before a rotation in blocks, so that all blocks are alike."""

from __future__ import annotations

import numpy as np

from fedkit.codecs.hadamard import BLOCK
from fedkit.codecs.stage import Vector

RUN = 16
"""Entries dealt out together: a cache line."""


def deal(vector: Vector) -> Vector:
    """The entries dealt out like cards, in runs of 16, to as many hands as there are blocks of a rotation.

    Each block then holds entries from all over the model, so that one step suits all blocks.
    """
    hands = max(1, vector.size // BLOCK)
    whole = vector.size // (hands * RUN) * hands * RUN
    out = np.empty_like(vector)
    out[:whole].reshape(hands, -1, RUN)[:] = vector[:whole].reshape(-1, hands, RUN).swapaxes(0, 1)
    out[whole:] = vector[whole:]
    return out


def collect(vector: Vector) -> Vector:
    """The inverse of `deal`."""
    hands = max(1, vector.size // BLOCK)
    whole = vector.size // (hands * RUN) * hands * RUN
    out = np.empty_like(vector)
    out[:whole].reshape(-1, hands, RUN)[:] = vector[:whole].reshape(hands, -1, RUN).swapaxes(0, 1)
    out[whole:] = vector[whole:]
    return out
