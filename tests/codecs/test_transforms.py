"""bfloat16, rotate, clip and sample as stages."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedkit.codecs import CodecContext
from fedkit.codecs.bfloat16 import BFloat16
from fedkit.codecs.clip import Clip
from fedkit.codecs.rotate import Rotate
from fedkit.codecs.sample import Sample
from fedkit.errors import ConfigError, WireError

Heavy = Callable[..., NDArray[np.float32]]
CTX = CodecContext(seed=3, shared_seed=4)
NOTHING = memoryview(b"")


def test_bfloat16_keeps_8_bits_of_each_entry(heavy: Heavy) -> None:
    x = heavy(200_000)
    for stage, bound in ((BFloat16(), 2.0**-8), (BFloat16("stoch"), 2.0**-7)):
        data = stage.encode(x, CTX)
        assert len(data) == 400_000
        made = stage.decode(memoryview(data), x.size, CTX)
        assert (np.abs(made.astype(np.float64) - x) <= bound * np.abs(x)).all()
        with pytest.raises(WireError):
            stage.decode(memoryview(data)[:-1], x.size, CTX)


@pytest.mark.parametrize("d", [0, 1, 4097])
def test_rotation_keeps_the_norm_and_comes_back(d: int, heavy: Heavy) -> None:
    x = heavy(d)
    turned, side = Rotate().forward(x, CTX)
    assert side == b""
    assert float(np.linalg.norm(turned)) == pytest.approx(float(np.linalg.norm(x)), rel=1e-5)
    assert np.allclose(Rotate().inverse(turned, NOTHING, d, CTX), x, atol=1e-6)


def test_a_shared_rotation_does_not_depend_on_the_client(heavy: Heavy) -> None:
    x = heavy(3000)
    others = CodecContext(seed=99, shared_seed=4)
    for stage, same in ((Rotate(shared=True), True), (Rotate(), False)):
        assert np.array_equal(stage.forward(x, CTX)[0], stage.forward(x, others)[0]) == same
    for sample, same in ((Sample(shared=True), True), (Sample(), False)):
        assert np.array_equal(sample.forward(x, CTX)[0], sample.forward(x, others)[0]) == same


def test_clipping_bounds_the_norm_and_leaves_short_vectors_alone(heavy: Heavy) -> None:
    x = heavy(3000)
    length = float(np.linalg.norm(x.astype(np.float64)))
    clipped = Clip(length / 3).forward(x, CTX)[0]
    assert float(np.linalg.norm(clipped.astype(np.float64))) == pytest.approx(length / 3, rel=1e-6)
    assert np.allclose(clipped * 3, x, rtol=1e-5)
    assert Clip(length * 1.001).forward(x, CTX)[0] is x
    huge = np.full(3000, 1e30, np.float32)
    assert float(np.linalg.norm(Clip(1.0).forward(huge, CTX)[0])) == pytest.approx(1.0, rel=1e-5)
    with pytest.raises(ConfigError, match="norm = 0"):
        Clip(0.0)


@given(st.integers(0, 3000), st.floats(0.01, 1.0), st.integers(0, 9))
def test_a_sample_has_one_entry_of_each_run_in_its_place(d: int, keep: float, seed: int) -> None:
    stage, ctx, x = Sample(keep), CodecContext(seed=seed), np.arange(1, d + 1, dtype=np.float32)
    kept, _ = stage.forward(x, ctx)
    assert kept.size == stage.out_len(d)
    made = stage.inverse(kept, NOTHING, d, ctx)
    places = np.flatnonzero(made)
    assert len(places) == kept.size
    sizes = made[places] / x[places]
    assert set(np.rint(sizes)) <= {d // max(1, kept.size), d // max(1, kept.size) + 1}
    assert int(np.rint(sizes).sum()) == d


@pytest.mark.parametrize("keep", [0.02, 0.1, 0.15])
def test_a_sample_is_unbiased_with_the_error_of_random_k(keep: float) -> None:
    d, stage = 1000, Sample(keep)
    made = np.array(
        [
            stage.inverse(stage.forward(np.ones(d, np.float32), ctx)[0], NOTHING, d, ctx)
            for ctx in (CodecContext(seed=seed) for seed in range(4000))
        ]
    )
    error = float(np.square(made - 1).mean())
    assert error == pytest.approx(stage.nmse(d), rel=0.03)
    assert error == pytest.approx(1 / keep - 1, rel=0.03)
    assert np.abs(made.mean(axis=0) - 1).max() <= 5 * (error / 4000) ** 0.5
