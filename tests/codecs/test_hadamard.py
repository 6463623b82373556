"""The fast transform against its matrix, and the rotation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedkit.codecs import bits
from fedkit.codecs.hadamard import BLOCK, Rotation, matrix, walsh

Heavy = Callable[..., NDArray[np.float32]]
SIZES = (1, 2, 3, 1000, 4095, 4096, 4097, 8191, bits.CHUNK, bits.CHUNK + 4097)


@pytest.mark.parametrize("order", range(13))
def test_the_fast_transform_is_the_matrix(order: int, heavy: Heavy) -> None:
    n = 1 << order
    rows = np.rint(1000 * heavy(3 * n)).reshape(3, n)  # whole numbers: every sum is exact
    expected = rows.astype(np.float64) @ matrix(n).astype(np.float64)
    assert np.array_equal(walsh(rows), expected)


def test_the_matrix_is_sylvesters() -> None:
    assert matrix(4).tolist() == [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]


@pytest.mark.parametrize("d", SIZES)
def test_the_rotation_keeps_the_norm_and_comes_back(d: int, heavy: Heavy) -> None:
    x = heavy(d)
    rotation = Rotation(d, 7)
    rows = [r.copy() for r in rotation.rows(x)]
    assert [r.shape for r in rows] == rotation.shapes()
    assert sum(r.size for r in rows) == d
    assert sum(float(np.square(r).sum()) for r in rows) == pytest.approx(float(np.square(x).sum()), rel=1e-4)
    assert np.allclose(rotation.back(iter(rows)), x, atol=1e-6 * float(np.abs(x).max()))


@given(st.integers(1, 9000), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_the_rotation_is_linear_and_fixed_by_its_seed(d: int, seed: int) -> None:
    x, y = np.arange(d, dtype=np.float32), np.ones(d, np.float32)

    def turn(v: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.concatenate([r.reshape(-1) for r in Rotation(d, seed).rows(v)])

    assert np.allclose(turn(x + y), turn(x) + turn(y), rtol=0, atol=1e-3 * d)
    assert np.array_equal(turn(x), turn(x))


@pytest.mark.parametrize("d", [BLOCK, BLOCK + 1000, 3 * BLOCK + 1])
def test_a_spike_is_spread_over_a_block_wherever_it_stands(d: int) -> None:
    for place in {0, 1, d // 2, d - 1}:
        x = np.zeros(d, np.float32)
        x[place] = 1.0
        top = max(float(np.abs(r).max()) for r in Rotation(d, 3).rows(x))
        assert top <= 4.1 / BLOCK**0.5  # twice rotated at most, so an entry may grow again a little


def test_another_seed_gives_another_rotation() -> None:
    x = np.ones(BLOCK, np.float32)
    first, second = (next(iter(Rotation(BLOCK, seed).rows(x))).copy() for seed in (1, 2))
    assert not np.array_equal(first, second)
