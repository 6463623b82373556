"""EDEN: the error the paper gives, at every rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from fedkit.codecs import CodecContext
from fedkit.codecs.eden import CENTROIDS, Eden
from fedkit.codecs.rotate import Rotate
from fedkit.errors import ConfigError, WireError

Heavy = Callable[..., NDArray[np.float32]]
SIZE = 1 << 17
BITS: tuple[Literal[1, 2, 3, 4], ...] = (1, 2, 3, 4)


def there_and_back(stage: Eden, x: NDArray[np.float32], seed: int = 0) -> NDArray[np.float64]:
    ctx = CodecContext(seed=seed)
    data = stage.encode(x, ctx)
    assert len(data) == stage.max_len(x.size) == stage.min_len(x.size)
    return stage.decode(memoryview(data), x.size, ctx).astype(np.float64)


def nmse(stage: Eden, x: NDArray[np.float32], seed: int = 0) -> float:
    error = there_and_back(stage, x, seed) - x
    return float(error @ error) / float(np.square(x, dtype=np.float64).sum())


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("keep", [1.0, 0.25, 0.05])
def test_the_error_is_the_papers(bits: Literal[1, 2, 3, 4], keep: float, heavy: Heavy) -> None:
    stage = Eden(bits, keep)
    assert stage.nmse(SIZE) == pytest.approx((1 + (0.5708, 0.1331, 0.0358, 0.0096)[bits - 1]) / keep - 1)
    assert nmse(stage, heavy(SIZE)) == pytest.approx(stage.nmse(SIZE), rel=0.1)


@pytest.mark.parametrize("bits", BITS)
def test_the_scale_of_least_error_is_the_papers_too(bits: Literal[1, 2, 3, 4], heavy: Heavy) -> None:
    stage = Eden(bits, scale="min")
    assert nmse(stage, heavy(SIZE)) == pytest.approx((0.3634, 0.1175, 0.0345, 0.0095)[bits - 1], rel=0.05)
    assert stage.nmse(SIZE) == pytest.approx((0.3634, 0.1175, 0.0345, 0.0095)[bits - 1], rel=0.01)
    assert nmse(Eden(bits, 0.1, "min"), heavy(SIZE)) < 1


def test_the_mean_of_clients_has_the_error_divided_by_their_number(heavy: Heavy) -> None:
    x = heavy(1 << 14)
    mean = np.mean([there_and_back(Eden(1), x, seed) for seed in range(32)], axis=0)
    error = mean - x
    relative = float(error @ error) / float(np.square(x, dtype=np.float64).sum())
    assert relative == pytest.approx(0.5708 / 32, rel=0.1)


@pytest.mark.parametrize("d", [1000, 4095, 4097, 5000, 8191])
def test_heads_of_any_length_are_unbiased(d: int, heavy: Heavy) -> None:
    x = heavy(d)
    head, errors = d % (1 << (min(d, 4096).bit_length() - 1)), []
    errors = [there_and_back(Eden(1), x, seed) - x for seed in range(256)]
    for part in (slice(0, head), slice(head, d)):
        size = np.mean([float(e[part] @ e[part]) for e in errors])
        bias = np.mean([e[part] for e in errors], axis=0)
        assert float(bias @ bias) <= 2 * size / 256


@pytest.mark.parametrize("entries", [3, 8, 32])
def test_sparse_blocks_are_unbiased_when_rotated_twice(entries: int) -> None:
    x = np.zeros(4096, np.float32)
    x[:: 4096 // entries] = 2.0 ** np.arange(len(x[:: 4096 // entries])) / 7
    x /= np.linalg.norm(x)

    def bias(twice: bool) -> float:
        total = np.zeros(4096)
        for seed in range(256):
            outer = CodecContext(seed=1000 + seed)
            turned = Rotate().forward(x, outer)[0] if twice else x
            made = there_and_back(Eden(1), turned, seed).astype(np.float32)
            total += Rotate().inverse(made, memoryview(b""), 4096, outer) if twice else made
        return float(np.linalg.norm(total / 256 - x))

    assert bias(twice=True) == pytest.approx((0.5708 / 256) ** 0.5, rel=0.1)
    assert bias(twice=False) > 0.1


def test_bits_an_entry() -> None:
    assert Eden(1).max_len(10 * 4096) == 10 * (512 + 2)
    assert Eden(3).max_len(10 * 4096) == 10 * (3 * 512 + 2)
    assert Eden(1, 0.1).max_len(10 * 4096) * 8 / 40960 == pytest.approx(0.1 + 2 * 8 / 4096, rel=0.01)
    assert Eden(1).max_len(0) == 0


def test_the_centroids_are_those_of_lloyd_and_max() -> None:
    """Each centroid is the mean of the normal density over the cell that is nearest to it."""
    grid = np.linspace(0, 9, 900_001)
    density = np.exp(-(grid**2) / 2)
    for half in CENTROIDS.values():
        cell = np.searchsorted((np.array(half[1:]) + half[:-1]) / 2, grid)
        means = np.bincount(cell, grid * density) / np.bincount(cell, density)
        assert np.allclose(means, half, atol=2e-5)


def test_a_spike_costs_no_more_than_a_spread_vector() -> None:
    x = np.zeros(4096, np.float32)
    x[17] = 5.0
    assert nmse(Eden(1), x) < 0.01  # all rotated magnitudes are equal: one bit says everything


def test_bad_parameters_and_bytes_are_refused(heavy: Heavy) -> None:
    with pytest.raises(ConfigError, match=r"keep = 0\.0 must be in \[0\.000976562, 1\]"):
        Eden(1, 0.0)
    with pytest.raises(ConfigError, match=r"bits = 5 must be in \[1, 4\]"):
        Eden(5)  # type: ignore[arg-type]
    data = Eden(1).encode(heavy(5000), CodecContext())
    for bad in (data[:-1], data + b"\0", b"", b"\xff" * len(data)):
        with pytest.raises(WireError):
            Eden(1).decode(memoryview(bad), 5000, CodecContext())
