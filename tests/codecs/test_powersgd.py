"""Low-rank updates: a projection near the best one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fedkit import plugins
from fedkit.codecs import CodecContext, frame, require_uplink
from fedkit.codecs.powersgd import PowerSgd
from fedkit.errors import ConfigError, WireError
from fedkit.seeds import stream
from fedkit.tensors import Layout

CTX = CodecContext(seed=1)
LAYOUT = Layout(
    ("conv", "bias", "dense", "long"), ((32, 16, 3, 3), (32,), (100, 60), (2000,)), ("float32",) * 4
)


def matrix(decay: float, rows: int = 100, columns: int = 60) -> NDArray[np.float32]:
    """Random singular vectors, singular values decay^i."""
    left = np.linalg.qr(stream(1).normal(rows * columns).reshape(rows, columns))[0]
    right = np.linalg.qr(stream(2).normal(columns * columns).reshape(columns, columns))[0]
    return np.asarray((left * decay ** np.arange(columns)) @ right, np.float32)


def there_and_back(x: NDArray[np.float32], rank: int, seed: int = 1) -> NDArray[np.float64]:
    layout, ctx = Layout(("w",), (x.shape,), ("float32",)), CodecContext(seed=seed)
    codec = PowerSgd(rank)
    return codec.decode(codec.encode({"w": x}, layout, ctx), layout, ctx)["w"].astype(np.float64)


def test_a_matrix_of_low_rank_comes_back() -> None:
    x = (stream(3).normal(200).reshape(100, 2) @ stream(4).normal(120).reshape(2, 60)).astype(np.float32)
    assert np.abs(there_and_back(x, 2) - x).max() <= 1e-5 * np.abs(x).max()
    assert np.abs(there_and_back(x.reshape(100, 20, 3), 2) - x.reshape(100, 20, 3)).max() <= 1e-5 * x.max()


@pytest.mark.parametrize("rank", [1, 2, 8])
@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_error_is_near_that_of_the_best_approximation(rank: int, decay: float) -> None:
    x = matrix(decay)
    values = decay ** (2.0 * np.arange(60))
    best = float(values[rank:].sum())
    errors = [float(np.square(there_and_back(x, rank, seed) - x).sum()) for seed in range(8)]
    assert best * (1 - 1e-3) <= min(errors)
    assert float(np.median(errors)) <= 1.3 * best
    assert max(errors) < float(values.sum())


def test_what_is_decoded_is_a_projection() -> None:
    x = stream(5).normal(6000).reshape(100, 60).astype(np.float32)
    made = there_and_back(x, 3)
    assert np.linalg.matrix_rank(made, tol=1e-4) == 3
    assert abs(float(((x - made) * made).sum())) <= 1e-5 * float((made * made).sum())


def test_only_matrices_that_shrink_are_factored() -> None:
    sizes = {"conv": 4 * 2 * (32 + 144), "bias": 2 * 32, "dense": 4 * 2 * 160, "long": 2 * 2000}
    assert PowerSgd().max_len(LAYOUT) == frame.OVERHEAD + 1 + sum(sizes.values())
    wide = 2 * 32 + 2 * 32 * 144 + 2 * 6000 + 2 * 2000
    assert PowerSgd(64).max_len(LAYOUT) == frame.OVERHEAD + 1 + wide
    assert PowerSgd().fixed_size


def test_it_may_have_error_feedback_and_goes_up_only() -> None:
    require_uplink(plugins.codec("powersgd:rank=4"), feedback=True)
    assert not PowerSgd().deterministic_decode
    assert not PowerSgd().stateful


def test_tensors_go_around_it_by_size_and_by_name() -> None:
    codec = plugins.codec("powersgd:exempt=den*+long,small=float32,below=40")
    assert isinstance(codec, PowerSgd)
    plain = PowerSgd().max_len(LAYOUT)
    assert codec.max_len(LAYOUT) == plain + 2 * 32 + 4 * 6000 - 4 * 2 * 160 + 2 * 2000
    delta = LAYOUT.view(stream(6).normal(LAYOUT.size).astype(np.float32))
    made = codec.decode(codec.encode(delta, LAYOUT, CTX), LAYOUT, CTX)
    for name in ("bias", "dense", "long"):
        assert np.array_equal(made[name], delta[name])
    assert not np.array_equal(made["conv"], delta["conv"])
    with pytest.raises(WireError):
        PowerSgd().decode(codec.encode(delta, LAYOUT, CTX), LAYOUT, CTX)


def test_bad_parameters_and_bytes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"rank = 0 must be in \[1, 64\]"):
        PowerSgd(0)
    codec, agreed = PowerSgd(), frame.contract(PowerSgd().spec, LAYOUT)
    size = codec.max_len(LAYOUT) - frame.OVERHEAD
    huge = bytes(64) + b"\0" + b"\0\0\x7f\x7f" * ((size - 65) // 4) + bytes((size - 65) % 4)
    for body in (bytes(size - 1), bytes(64) + b"\x70" + bytes(size - 65), b"\xff" * size, huge):
        with pytest.raises(WireError):
            codec.decode(frame.seal(agreed, body), LAYOUT, CTX)
