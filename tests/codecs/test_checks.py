"""What each direction demands, and what the error says to use instead."""

from __future__ import annotations

import pytest

from fedkit import plugins
from fedkit.codecs import AUTO, require_downlink, require_ring, require_uplink
from fedkit.errors import ConfigError


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
    with pytest.raises(ConfigError, match=r"is unbiased.*turn error feedback off"):
        require_uplink(plugins.codec(spec), feedback=True)


@pytest.mark.parametrize("spec", ["clip|ecsq:mode=near", "sample|ecsq:mode=near"])
def test_a_codec_that_may_grow_the_error_is_refused_with_error_feedback(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"not contractive.*'ecsq:mode=near'"):
        require_uplink(plugins.codec(spec), feedback=True)


@pytest.mark.parametrize("spec", ["eden", "rotate|int8"])
def test_a_downlink_that_rotates_is_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"same bits on every platform.*'ecsq:delta=2,mode=near'"):
        require_downlink(plugins.codec(spec))


def test_the_ladder_is_refused_on_the_way_down_for_what_it_is() -> None:
    with pytest.raises(ConfigError, match=r"one encoding of a round serves them all: use 'ecsq:delta=2"):
        require_downlink(plugins.codec("adaptive:best=1"))


def test_no_ring_is_refused_under_secure_aggregation() -> None:
    with pytest.raises(ConfigError, match="secure aggregation: use 'ring-rotq' or 'ring-srht'"):
        require_ring(plugins.codec("ecsq"))
