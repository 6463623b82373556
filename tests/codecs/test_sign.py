"""Scaled signs: the error that their paper gives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fedkit.codecs import CodecContext
from fedkit.codecs.sign import Sign
from fedkit.errors import ConfigError, WireError

Heavy = Callable[..., NDArray[np.float32]]
CTX = CodecContext()


@pytest.mark.parametrize(("d", "block"), [(5000, 4096), (1003, 16), (1003, 100), (7, 16), (0, 16)])
def test_the_error_of_each_block_is_the_papers(d: int, block: int, heavy: Heavy) -> None:
    x, stage = heavy(d), Sign(block)
    data = stage.encode(x, CTX)
    assert len(data) == stage.max_len(d) == stage.min_len(d)
    made = stage.decode(memoryview(data), d, CTX).astype(np.float64)
    assert np.array_equal(made > 0, x > 0)
    for low in range(0, d, block):
        part, got = x[low : low + block].astype(np.float64), made[low : low + block]
        expected = part @ part - np.abs(part).sum() ** 2 / len(part)
        assert float((got - part) @ (got - part)) == pytest.approx(
            expected, rel=1e-3, abs=1e-4 * float(part @ part)
        )


def test_bits_an_entry() -> None:
    assert Sign().max_len(10 * 4096) == 10 * (512 + 2)


def test_bad_parameters_and_bytes_are_refused(heavy: Heavy) -> None:
    with pytest.raises(ConfigError, match="block = 3 must be in"):
        Sign(3)
    data = Sign().encode(heavy(2000), CTX)
    for bad in (data[:-1], data + b"\0", b"\xff" * len(data)):
        with pytest.raises(WireError):
            Sign().decode(memoryview(bad), 2000, CTX)
