"""Uniform scalar quantisation: error as the formulas say, in every mode."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedkit.codecs import CodecContext
from fedkit.codecs.ecsq import Ecsq
from fedkit.errors import ConfigError, WireError

Heavy = Callable[..., NDArray[np.float32]]
SIZE = 1 << 17


def there_and_back(stage: Ecsq, x: NDArray[np.float32], seed: int = 0) -> NDArray[np.float64]:
    ctx = CodecContext(seed=seed)
    data = stage.encode(x, ctx)
    assert stage.min_len(x.size) <= len(data) <= stage.max_len(x.size)
    return stage.decode(memoryview(data), x.size, ctx).astype(np.float64)


def fractions(x: NDArray[np.float32], delta: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Step of each entry, and the fractional part of |x| in steps."""
    blocks = x.astype(np.float64).reshape(-1, 4096)
    steps = np.repeat(delta * np.sqrt(np.square(blocks).mean(axis=1)), 4096)
    return steps, np.modf(np.abs(blocks.reshape(-1)) / steps)[0]


@pytest.mark.parametrize("delta", [1.0, 4.0, 16.0])
def test_the_error_of_dither_is_uniform(delta: float, heavy: Heavy) -> None:
    x = heavy(SIZE)
    error = there_and_back(Ecsq(delta, "dither"), x) - x
    nmse = float(error @ error) / float(np.square(x, dtype=np.float64).sum())
    assert nmse == pytest.approx(delta**2 / 12, rel=0.02)
    assert Ecsq(delta, "dither").nmse(SIZE) == delta**2 / 12


@pytest.mark.parametrize("delta", [1.0, 4.0, 16.0])
def test_the_error_of_stochastic_rounding_is_the_formula(delta: float, heavy: Heavy) -> None:
    x = heavy(SIZE)
    error = there_and_back(Ecsq(delta), x) - x
    steps, f = fractions(x, delta)
    expected = float((steps**2 * f * (1 - f)).sum())
    assert float(error @ error) == pytest.approx(expected, rel=0.05)
    assert Ecsq(delta).nmse(SIZE) is None


@pytest.mark.parametrize("delta", [0.5, 2.0, 4.0])
def test_nearest_moves_no_entry_by_more_than_half_a_step_nor_by_itself(delta: float, heavy: Heavy) -> None:
    x = heavy(SIZE)
    error = np.abs(there_and_back(Ecsq(delta, "near"), x) - x)
    assert (error <= 0.503 * fractions(x, delta)[0]).all()  # the step is rounded to 8 bits
    assert (error <= np.abs(x)).all()


@given(st.integers(1, 500), st.floats(0.01, 64), st.sampled_from([16, 100, 4096]), st.integers(0, 9))
def test_all_energy_in_one_entry_still_fits_a_symbol(d: int, delta: float, block: int, seed: int) -> None:
    x = np.zeros(d, np.float32)
    x[d // 2] = -3.0
    made = there_and_back(Ecsq(delta, "stoch", block), x, seed)
    assert np.count_nonzero(np.delete(made, d // 2)) == 0
    assert abs(made[d // 2] + 3.0) <= 1.01 * delta * 3.0 / min(d, block) ** 0.5


def test_blocks_are_scaled_apart(heavy: Heavy) -> None:
    x = heavy(8192)
    x[:4096] *= np.float32(1e-4)
    for mode in ("stoch", "dither", "near"):
        error = there_and_back(Ecsq(1.0, mode), x) - x
        first = np.linalg.norm(error[:4096]) / np.linalg.norm(x[:4096])
        assert first < 0.5


def test_the_estimate_of_size_is_near_the_truth_for_heavy_tails(heavy: Heavy) -> None:
    x = heavy(SIZE)
    for mode in ("stoch", "near"):
        for delta in (1.0, 2.0, 4.0):
            stage = Ecsq(delta, mode)
            assert stage.size_estimate(SIZE) == pytest.approx(len(stage.encode(x, CodecContext())), rel=0.06)


def test_parameters_out_of_range_are_refused() -> None:
    for bad in ({"delta": 0.0}, {"delta": 65.0}, {"delta": float("nan")}, {"block": 8}):
        with pytest.raises(ConfigError, match=rf"'ecsq': {next(iter(bad))} = .* must be in \["):
            Ecsq(**bad)


def test_scales_out_of_range_are_refused(heavy: Heavy) -> None:
    stage, ctx = Ecsq(), CodecContext()
    data = bytearray(stage.encode(heavy(5000), ctx))
    data[1] |= 0x80
    with pytest.raises(WireError, match="scale"):
        stage.decode(memoryview(data), 5000, ctx)
