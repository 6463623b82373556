"""Vectors like real deltas, for all tests of codecs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fedkit.seeds import stream


@pytest.fixture
def heavy() -> Callable[..., NDArray[np.float32]]:
    """(size, seed=0) -> heavy-tailed entries: signed 2.4th powers of normal ones, times 0.01."""

    def make(size: int, seed: int = 0) -> NDArray[np.float32]:
        normal = stream(seed, "heavy").normal(size)
        return (0.01 * np.sign(normal) * np.abs(normal) ** 2.4).astype(np.float32)

    return make
