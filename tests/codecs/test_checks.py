"""What each direction demands, and what the error says to use instead."""

from __future__ import annotations

import numpy as np
import pytest

from fedkit import plugins
from fedkit.codecs import AUTO, CodecContext, require_downlink, require_ring, require_uplink
from fedkit.errors import ConfigError
from fedkit.seeds import stream
from fedkit.tensors import Layout


def test_auto_passes_its_own_direction() -> None:
    require_uplink(plugins.codec("auto"))
    require_downlink(plugins.codec("auto", "down"))
    assert plugins.codec("auto") == plugins.codec(AUTO["up"])
    assert plugins.codec("auto", "down") == plugins.codec(AUTO["down"])


@pytest.mark.parametrize("spec", ["ecsq:mode=near", "bfloat16", "eden:scale=min", "rotate|ecsq:mode=near"])
def test_contractive_codecs_may_have_error_feedback(spec: str) -> None:
    require_uplink(plugins.codec(spec), feedback=True)


@pytest.mark.parametrize("spec", ["ecsq", "eden", "int8", "sample|bfloat16:mode=stoch"])
def test_an_unbiased_codec_with_error_feedback_is_refused(spec: str) -> None:
    require_uplink(plugins.codec(spec))
    with pytest.raises(ConfigError, match=r"codec.feedback = 'on': .* is unbiased.*set it to 'off'"):
        require_uplink(plugins.codec(spec), feedback=True)


@pytest.mark.parametrize("spec", ["clip|ecsq:mode=near", "sample|ecsq:mode=near"])
def test_a_codec_that_may_grow_the_error_is_refused_with_error_feedback(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"not contractive.*'ecsq:mode=near'"):
        require_uplink(plugins.codec(spec), feedback=True)


@pytest.mark.parametrize("spec", ["eden", "rotate|int8"])
def test_a_downlink_that_rotates_is_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"same bits on every platform.*'ecsq:delta=2,mode=near'"):
        require_downlink(plugins.codec(spec))


@pytest.mark.parametrize(
    "spec", ["none", "int8", "int4", "bfloat16", "bfloat16:mode=stoch", "ecsq:delta=1.9",
             "ecsq:delta=3,mode=dither", "sign", "stc", "topk|int4",
             "topk|ecsq:delta=1", "qsgd:levels=40", "ecsq:delta=16,mode=near"]
)  # fmt: skip
def test_what_tells_more_than_half_may_tell_differences_of_differences(spec: str) -> None:
    require_downlink(plugins.codec(spec, "down"), "last")


@pytest.mark.parametrize(
    "spec", ["ecsq:delta=2", "ecsq", "ecsq:delta=4,mode=dither", "qsgd", "sample|int8", "sample:keep=.9|int8",
             "int4:block=1024", "topk|ecsq", "clip|int8", "int8:block=65536"]
)  # fmt: skip
def test_what_may_be_off_by_the_whole_may_not(spec: str) -> None:
    codec = plugins.codec(spec, "down")
    with pytest.raises(ConfigError, match=r"codec.down = .*grow without end: use 'ecsq:delta=2,mode=near'"):
        require_downlink(codec, "last")
    require_downlink(codec, "first")


@pytest.mark.parametrize(
    "spec", ["int8", "int8:block=16", "int4", "bfloat16:mode=stoch", "bfloat16", "ecsq", "ecsq:delta=.5",
             "ecsq:mode=dither", "ecsq:delta=1,mode=near", "qsgd", "sample|int8",
             "sample:keep=.7|ecsq:delta=1", "topk:share=.3|int4", "topk:share=.3|ecsq", "rotate|int4"]
)  # fmt: skip
def test_the_bound_of_the_error_holds_for_the_worst_there_is(spec: str) -> None:
    """One entry, a few, steps and halves of them, and everything at once."""
    codec, d = plugins.codec(f"tensors:below=0|{spec}"), 1200
    bound = codec.worst_nmse
    assert bound is not None
    layout, number = Layout(("w",), ((d,),), ("float32",)), np.arange(d)
    normal = stream(3, "worst").normal(d)
    for x in (
        number == 7,
        number < 3,
        np.full(d, 1.0),
        normal,
        normal**7,
        np.where(number % 64, 0.5 / 127, 1.0),
    ):
        errors = []
        for seed in range(24):
            ctx = CodecContext(seed=seed, shared_seed=seed)
            delta = {"w": x.astype(np.float32)}
            made = codec.decode(codec.encode(delta, layout, ctx), layout, ctx)["w"]
            errors.append(float(np.square(made.astype(np.float64) - delta["w"]).sum()))
        size = float(np.square(x.astype(np.float64)).sum())
        noise = 3 * float(np.std(errors)) / len(errors) ** 0.5
        assert float(np.mean(errors)) <= bound * size + noise + 1e-9 * size


def test_the_ladder_is_refused_on_the_way_down_for_what_it_is() -> None:
    with pytest.raises(ConfigError, match=r"one encoding of a round serves them all: use 'ecsq:delta=2"):
        require_downlink(plugins.codec("adaptive:best=1"))


def test_no_ring_is_refused_under_secure_aggregation() -> None:
    with pytest.raises(ConfigError, match="secure aggregation: use 'ring-rotq' or 'ring-srht'"):
        require_ring(plugins.codec("ecsq"))
