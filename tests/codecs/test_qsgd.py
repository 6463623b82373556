"""QSGD: the bounds of its paper."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fedkit.codecs import CodecContext
from fedkit.codecs.qsgd import Qsgd
from fedkit.errors import ConfigError, WireError

Heavy = Callable[..., NDArray[np.float32]]


def there_and_back(stage: Qsgd, x: NDArray[np.float32], seed: int = 0) -> NDArray[np.float64]:
    ctx = CodecContext(seed=seed)
    data = stage.encode(x, ctx)
    assert stage.min_len(x.size) <= len(data) <= stage.max_len(x.size)
    return stage.decode(memoryview(data), x.size, ctx).astype(np.float64)


@pytest.mark.parametrize(("levels", "bucket"), [(1, 512), (1, 64), (4, 512), (16, 128), (127, 4096)])
def test_the_error_is_within_the_papers_bound(levels: int, bucket: int, heavy: Heavy) -> None:
    stage = Qsgd(levels, bucket)
    assert stage.worst_nmse == pytest.approx(min(bucket / levels**2, bucket**0.5 / levels))
    for x in (heavy(1 << 16), np.ones(1 << 16, np.float32)):
        error = there_and_back(stage, x) - x
        relative = float(error @ error) / float(np.square(x, dtype=np.float64).sum())
        assert relative <= 1.02 * stage.worst_nmse


def test_one_level_is_the_norm_with_the_probability_of_the_paper() -> None:
    """P(xi = 1) = |x_i| / |x|_2; here 1 / sqrt(512) for each entry of a constant bucket."""
    x = np.full(512 * 400, 3.0, np.float32)
    made = there_and_back(Qsgd(), x)
    sizes = np.unique(np.abs(made))
    assert len(sizes) == 2
    assert sizes[1] == pytest.approx(3 * 512**0.5, rel=2**-8)
    assert np.count_nonzero(made) / made.size == pytest.approx(512**-0.5, rel=0.05)
    assert (made >= 0).all()


def test_a_spike_comes_back_whole() -> None:
    x = np.zeros(512, np.float32)
    x[7] = -2.0
    assert there_and_back(Qsgd(), x)[7] == pytest.approx(-2, rel=2**-8)


def test_bits_an_entry(heavy: Heavy) -> None:
    x = heavy(1 << 17)
    size = len(Qsgd().encode(x, CodecContext()))
    assert 8 * size / x.size == pytest.approx(0.21, abs=0.05)
    assert Qsgd().size_estimate(x.size) == pytest.approx(size, rel=0.15)


def test_bad_parameters_and_bytes_are_refused(heavy: Heavy) -> None:
    with pytest.raises(ConfigError, match="levels = 0 must be in"):
        Qsgd(0)
    with pytest.raises(ConfigError, match="bucket = 8192 is too large for levels = 1: at most 4096"):
        Qsgd(1, 8192)
    data = Qsgd().encode(heavy(2000), CodecContext())
    for bad in (data[:-1], data + b"\0", b"\xff" * len(data)):
        with pytest.raises(WireError):
            Qsgd().decode(memoryview(bad), 2000, CodecContext())
