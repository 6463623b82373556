"""Sparse ternary compression: algorithm 1 of its paper."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fedkit.codecs import CodecContext, gaps
from fedkit.codecs.stc import Stc
from fedkit.errors import ConfigError, WireError

Heavy = Callable[..., NDArray[np.float32]]
CTX = CodecContext()


def there_and_back(stage: Stc, x: NDArray[np.float32]) -> NDArray[np.float64]:
    data = stage.encode(x, CTX)
    assert stage.min_len(x.size) <= len(data) <= stage.max_len(x.size)
    return stage.decode(memoryview(data), x.size, CTX).astype(np.float64)


def test_the_largest_become_their_mean_magnitude_with_their_signs(heavy: Heavy) -> None:
    x = heavy(20_000)
    made = there_and_back(Stc(0.01), x)
    at = np.sort(np.argsort(-np.abs(x), kind="stable")[:200])
    assert np.array_equal(np.flatnonzero(made), at)
    mean = np.abs(x[at]).mean(dtype=np.float64)
    assert np.allclose(made[at], np.sign(x[at]) * mean, rtol=1e-6)


@given(arrays(np.float32, st.integers(0, 300), elements=st.floats(-100, 100, width=32)), st.floats(2**-16, 1))
def test_it_is_a_projection(x: NDArray[np.float32], share: float) -> None:
    made, true = there_and_back(Stc(share), x), x.astype(np.float64)
    error = true - made
    assert float(error @ error) <= float(true @ true) * (1 + 1e-6)
    assert abs(float(error @ made)) <= 1e-5 * float(true @ true) + 1e-30


def test_bits_an_entry(heavy: Heavy) -> None:
    x = heavy(1 << 17)
    size = len(Stc().encode(x, CTX))
    assert 8 * size / x.size == pytest.approx(0.093, abs=0.005)
    assert Stc().size_estimate(x.size) == pytest.approx(size, rel=0.08)


def test_bad_parameters_and_bytes_are_refused(heavy: Heavy) -> None:
    with pytest.raises(ConfigError, match=r"share = 2\.0 must be in"):
        Stc(2.0)
    data = Stc().encode(heavy(2000), CTX)
    rest = data[4:]
    magnitudes = (struct.pack("<f", value) + rest for value in (-1.0, -0.0, float("nan"), float("inf")))
    double = data[:4] + gaps.encode(np.arange(20), np.full(20, 2))
    for bad in (data[:-1], data + b"\0", b"\xff" * len(data), b"", double, *magnitudes):
        with pytest.raises(WireError):
            Stc().decode(memoryview(bad), 2000, CTX)
