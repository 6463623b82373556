"""Top-k as a stage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fedkit import plugins
from fedkit.codecs import CodecContext, gaps, require_uplink
from fedkit.codecs.topk import TopK
from fedkit.errors import ConfigError, WireError
from fedkit.tensors import Layout

Heavy = Callable[..., NDArray[np.float32]]
CTX = CodecContext(seed=1)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.3, 1.0])
def test_the_largest_stay_and_the_rest_is_zero(share: float, heavy: Heavy) -> None:
    x, stage = heavy(20_000), TopK(share)
    kept, side = stage.forward(x, CTX)
    assert kept.size == stage.out_len(20_000) == round(share * 20_000)
    assert stage.min_len(x.size) <= len(side) <= stage.max_len(x.size)
    made = stage.inverse(kept, memoryview(side), x.size, CTX)
    edge = np.sort(np.abs(x))[-kept.size]
    assert np.array_equal(made, np.where(np.abs(x) >= edge, x, 0))


def test_the_error_is_at_most_that_of_a_random_choice(heavy: Heavy) -> None:
    """1 - k / d, reached by a constant vector."""
    stage = TopK(0.1)
    for x in (heavy(10_000), np.ones(10_000, np.float32)):
        kept, side = stage.forward(x, CTX)
        error = stage.inverse(kept, memoryview(side), x.size, CTX) - x
        assert float(error @ error) <= (0.9 + 1e-6) * float(x @ x)


def test_in_a_pipeline_it_may_have_error_feedback(heavy: Heavy) -> None:
    codec, layout = plugins.codec("topk:share=0.01|int8"), Layout(("w",), ((100_000,),), ("float32",))
    assert codec.contractive
    assert not codec.unbiased
    require_uplink(codec, feedback=True)
    x = heavy(100_000)
    payload = codec.encode({"w": x}, layout, CTX)
    assert 8 * len(payload) / x.size == pytest.approx(0.163, abs=0.01)
    assert codec.size_estimate(layout) == pytest.approx(len(payload), rel=0.05)
    made = codec.decode(payload, layout, CTX)["w"]
    assert np.count_nonzero(made) >= 900
    assert np.linalg.norm(made - x) < np.linalg.norm(x)


def test_a_coarse_quantizer_after_it_may_not() -> None:
    with pytest.raises(ConfigError, match="not contractive"):
        require_uplink(plugins.codec("topk|int4"), feedback=True)
    require_uplink(plugins.codec("topk|int4:block=32"), feedback=True)


def test_bad_parameters_and_bytes_are_refused(heavy: Heavy) -> None:
    with pytest.raises(ConfigError, match=r"share = 0\.0 must be in"):
        TopK(0.0)
    kept, side = TopK().forward(heavy(2000), CTX)
    negative = gaps.encode(np.arange(20), np.full(20, -1))
    for bad in (side[:-1], side + b"\0", b"\xff" * len(side), b"", negative):
        with pytest.raises(WireError):
            TopK().inverse(kept, memoryview(bad), 2000, CTX)
