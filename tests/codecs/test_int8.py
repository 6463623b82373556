"""Eight bits an entry."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fedkit.codecs import CodecContext
from fedkit.codecs.int8 import LEVELS, Int8
from fedkit.errors import ConfigError, WireError

Heavy = Callable[..., NDArray[np.float32]]


def there_and_back(x: NDArray[np.float32], seed: int = 0, block: int = 1024) -> NDArray[np.float64]:
    stage, ctx = Int8(block), CodecContext(seed=seed)
    data = stage.encode(x, ctx)
    assert len(data) == stage.max_len(x.size)
    return stage.decode(memoryview(data), x.size, ctx).astype(np.float64)


def test_no_entry_moves_by_more_than_a_step_of_its_block(heavy: Heavy) -> None:
    x = heavy(5000)
    x[:1024] *= np.float32(1e-6)
    tops = np.array([np.abs(x[low : low + 1024]).max() for low in range(0, 5000, 1024)])
    steps = np.repeat(tops, 1024)[:5000] / LEVELS * (1 + 2**-7)
    assert (np.abs(there_and_back(x) - x) <= steps).all()


def test_rounding_is_unbiased_and_its_error_is_the_formula() -> None:
    x = np.full(1 << 16, 0.4, np.float32)
    x[::1024] = 126.9  # a step of exactly 1
    made = there_and_back(x)
    rest = np.delete(made, np.s_[::1024])
    assert set(rest) == {0.0, 1.0}
    assert rest.mean() == pytest.approx(0.4, abs=4 * 0.49 / 256)


@given(arrays(np.float32, st.integers(0, 200), elements=st.floats(-100, 100, width=32)), st.integers(0, 9))
def test_the_largest_entries_never_wrap(x: NDArray[np.float32], seed: int) -> None:
    made = there_and_back(x, seed, 16)
    for low in range(0, x.size, 16):
        top = float(np.abs(x[low : low + 16]).max())
        assert np.abs(made[low : low + 16] - x[low : low + 16]).max() <= top / 126 + 1e-30


def test_bad_parameters_and_bytes_are_refused(heavy: Heavy) -> None:
    with pytest.raises(ConfigError, match="block = 1 must be in"):
        Int8(1)
    data = Int8().encode(heavy(2000), CodecContext())
    for bad in (data[:-1], data + b"\0", b"\xff" * len(data)):
        with pytest.raises(WireError):
            Int8().decode(memoryview(bad), 2000, CodecContext())
