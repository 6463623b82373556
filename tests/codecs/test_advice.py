"""What a user is told of a codec and a model before the first round."""

from __future__ import annotations

import re

import pytest

from fedkit import plugins
from fedkit.codecs import demand_matches, notices
from fedkit.codecs.advice import rules_of
from fedkit.errors import ConfigError
from fedkit.tensors import Layout


def layout(**shapes: tuple[int, ...]) -> Layout:
    return Layout(tuple(shapes), tuple(shapes.values()), ("float32",) * len(shapes))


SMALL = layout(weight=(64, 10), bias=(10,))
LARGE = layout(weight=(784, 256), bias=(256,))
MANY = layout(**{f"layer{i}": (100, 100) for i in range(20)})


def told(up: str, down: str = "none", model: Layout = LARGE, feedback: bool = False) -> list[str]:
    return list(notices(plugins.codec(up), plugins.codec(down, "down"), model, feedback))


@pytest.mark.parametrize(
    "up", ["none", "auto", "eden", "bfloat16", "rotate|sample|int8", "adaptive", "ring-rotq"]
)
def test_nothing_is_said_of_an_unbiased_codec_and_a_large_model(up: str) -> None:
    assert told(up, "auto") == []


@pytest.mark.parametrize("up", ["int8", "ecsq:delta=2", "eden", "clip|qsgd"])
def test_a_model_of_small_tensors_is_told_how_to_code_them(up: str) -> None:
    (said,) = told(up, model=SMALL)
    assert said.startswith("codec.up: ")
    assert "of the bytes are tensors of fewer than 1024 entries, sent as bfloat16" in said
    assert "'tensors:below=64|' before it" in said
    before, after = plugins.codec(up), plugins.codec(f"tensors:below=64|{up}")
    sizes = [f"{codec.size_estimate(SMALL):,.0f}" for codec in (after, before)]
    assert f"in {sizes[0]} bytes in place of {sizes[1]}" in said
    assert told(f"tensors:below=64|{up}", model=SMALL) == []


def test_the_share_counts_small_tensors_only() -> None:
    model = layout(weight=(5000,), bias=(1000,))
    (said,) = told("eden", model=model)
    size = plugins.codec("eden").size_estimate(model)
    assert said.startswith(f"codec.up: {2000 / size:.0%} of the bytes")
    assert told("tensors:exempt=bias|eden", model=model) == []


def test_codecs_with_rules_of_their_own_are_told_their_own_form() -> None:
    (said,) = told("adaptive:best=4", model=SMALL)
    assert "sent as bfloat16: 'adaptive:below=64' codes" in said
    assert not told("adaptive:best=4,below=64", model=SMALL)
    model = layout(weight=(30, 30))
    assert any(
        "'powersgd:below=64' codes" in said for said in told("powersgd:rank=1", model=model, feedback=True)
    )
    (said,) = told("ring-rotq", model=SMALL)
    assert re.search(r"9\d% of the bytes .* sends in 32 bits: a model this small gains little", said)


def test_the_way_down_is_looked_at_too() -> None:
    (said,) = told("none", "auto", SMALL)
    assert said.startswith("codec.down: ")


@pytest.mark.parametrize(
    "up", ["sign", "topk|int8", "stc", "eden:scale=min", "ecsq:mode=near", "clip|sign", "powersgd"]
)
def test_a_biased_codec_without_error_feedback_is_told_of(up: str) -> None:
    model = LARGE
    (said,) = told(up, model=model)
    name = up.removeprefix("clip|").partition("|")[0].partition(":")[0]
    assert said.startswith(f"codec.up: {name!r} is biased and there is no error feedback")
    assert told(up, model=model, feedback=True) == []


@pytest.mark.parametrize("up", ["bfloat16:mode=near", "clip|int8", "clip|bfloat16"])
def test_a_bias_that_is_tiny_or_asked_for_is_not(up: str) -> None:
    assert told(up) == []


def test_a_sample_of_raw_entries_is_told_to_rotate() -> None:
    for spec in ("sample|int8", "sample|rotate|int8", "clip|sample|int8"):
        (said,) = told(spec)
        assert "use 'rotate|sample'" in said
    assert told("clip|rotate|sample|int8") == []


@pytest.mark.parametrize(
    "spec", ["tensors:exempt={}|int8", "powersgd:exempt={}", "adaptive:exempt={}", "ring-srht:exempt={}"]
)
def test_a_pattern_that_matches_nothing_is_refused(spec: str) -> None:
    demand_matches(plugins.codec(spec.format("b*+weight")), LARGE, "codec.up")
    with pytest.raises(
        ConfigError, match=r"codec.up: exempt: 'baias' matches no tensor; did you mean 'bias'\?"
    ):
        demand_matches(plugins.codec(spec.format("weight+baias")), LARGE, "codec.up")


def test_what_there_is_is_listed_within_reason() -> None:
    demand_matches(plugins.codec("none"), LARGE, "codec.up")
    with pytest.raises(
        ConfigError, match=r"'\*\.norm' matches no tensor; known: bias, weight; join patterns with"
    ):
        demand_matches(plugins.codec("tensors:exempt=*.norm|int8"), LARGE, "codec.down")
    with pytest.raises(ConfigError, match=r"codec.down: exempt: .* and 8 more; join patterns with '\+'"):
        demand_matches(plugins.codec("tensors:exempt=*.norm|int8"), MANY, "codec.down")


def test_the_rules_of_each_kind_of_codec() -> None:
    for spec in ("tensors:exempt=b|int8", "powersgd:exempt=b", "adaptive:exempt=b", "ring-rotq:exempt=b"):
        rules = rules_of(plugins.codec(spec))
        assert rules is not None
        assert rules.patterns == ("b",)
    assert rules_of(plugins.codec("none")) is None
