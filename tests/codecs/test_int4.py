"""Four bits an entry, and fewer once coded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fedkit.codecs import CodecContext
from fedkit.codecs.int4 import LEVELS, Int4
from fedkit.errors import ConfigError, WireError

Heavy = Callable[..., NDArray[np.float32]]


def there_and_back(x: NDArray[np.float32], seed: int = 0, block: int = 128) -> NDArray[np.float64]:
    stage, ctx = Int4(block), CodecContext(seed=seed)
    data = stage.encode(x, ctx)
    assert stage.min_len(x.size) <= len(data) <= stage.max_len(x.size)
    return stage.decode(memoryview(data), x.size, ctx).astype(np.float64)


def test_no_entry_moves_by_more_than_a_step_of_its_block(heavy: Heavy) -> None:
    x = heavy(5000)
    x[:128] *= np.float32(1e-6)
    tops = np.array([np.abs(x[low : low + 128]).max() for low in range(0, 5000, 128)])
    steps = np.repeat(tops, 128)[:5000] / LEVELS * (1 + 2**-7)
    assert (np.abs(there_and_back(x) - x) <= steps).all()


def test_rounding_is_unbiased_and_its_error_is_the_formula(heavy: Heavy) -> None:
    x = heavy(1 << 15)
    peaks = np.abs(x).reshape(-1, 128).max(axis=1) / LEVELS
    share = np.abs(x.reshape(-1, 128) / peaks[:, None]) % 1
    expected = float((peaks[:, None] ** 2 * share * (1 - share)).sum())
    errors = [there_and_back(x, seed) - x for seed in range(16)]
    assert np.mean([float(e @ e) for e in errors]) == pytest.approx(expected, rel=0.02)
    bias = np.mean(errors, axis=0)
    assert float(bias @ bias) <= 1.2 * expected / 16


@given(arrays(np.float32, st.integers(0, 200), elements=st.floats(-100, 100, width=32)), st.integers(0, 9))
def test_the_largest_entries_never_leave_15_levels(x: NDArray[np.float32], seed: int) -> None:
    made = there_and_back(x, seed, 16)
    for low in range(0, x.size, 16):
        top = float(np.abs(x[low : low + 16]).max())
        assert np.abs(made[low : low + 16]).max() <= top * 7 / LEVELS * (1 + 2**-7) + 1e-30


def test_bits_an_entry(heavy: Heavy) -> None:
    normal = np.random.default_rng(0).standard_normal(1 << 17).astype(np.float32)
    assert 8 * len(Int4().encode(normal, CodecContext())) / normal.size == pytest.approx(3.5, abs=0.1)
    assert 8 * len(Int4().encode(heavy(1 << 17), CodecContext())) / (1 << 17) < 2.5


def test_traits_follow_the_block() -> None:
    assert not Int4().contractive
    assert Int4(40).contractive


def test_bad_parameters_and_bytes_are_refused(heavy: Heavy) -> None:
    with pytest.raises(ConfigError, match="block = 1 must be in"):
        Int4(1)
    data = Int4().encode(heavy(2000), CodecContext())
    for bad in (data[:-1], data + b"\0", b"\xff" * len(data), b""):
        with pytest.raises(WireError):
            Int4().decode(memoryview(bad), 2000, CodecContext())
