"""Spec strings: what they say, and every way in which they say nothing."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit import plugins
from fedkit.codecs import AUTO, TensorRules
from fedkit.codecs.ring_rotq import RingRotQ
from fedkit.codecs.spec import MOST, STAGES, Part, parse
from fedkit.errors import ConfigError


def test_the_parts_of_a_spec() -> None:
    assert parse(" rotate | my/file.py:Mine:a=1,b=x/2:y | ecsq/1: delta = 4 ,mode=near") == [
        Part("rotate", None, {}),
        Part("my/file.py:Mine", None, {"a": "1", "b": "x/2:y"}, file=True),
        Part("ecsq", "1", {"delta": "4", "mode": "near"}),
    ]


def test_a_file_further_back_than_the_name_is_no_file() -> None:
    for spec in ("ecsq:a=/../evil.py:C", "ecsq/../evil:x=y.py:C"):
        assert not any(part.file for part in parse(spec))
    with pytest.raises(ConfigError, match=r"'/../evil.py:C' is no option"):
        parse("ecsq:/../evil.py:C")


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("", "codec '': name a codec, as in 'int8'"),
        ("  ", "name a codec"),
        ("|", "a stage without a name"),
        ("rotate|", "a stage without a name"),
        (":delta=4", "a stage without a name"),
        ("auto|int8", "'auto' stands alone, without options.*'ecsq:delta=4,mode=stoch' up"),
        ("auto:delta=4", "'auto' stands alone"),
        ("auto/1", "'auto' stands alone"),
        ("ecsq:delta=4,delta=16", "'delta' stands twice"),
        ("ecsq:delta=4,delta =4", "'delta' stands twice"),
        ("ecsq:delta", "'delta' is no option: write key=value"),
        ('tensors:exempt="a,b"|int8', "'b\"' is no option.*patterns of tensor names are joined by '\\+'"),
        ("tensors:exempt=a|b|int8", "unknown codec 'b'.*patterns of exempt are joined by '\\+'"),
        ('tensors:exempt=a"b|int8', "patterns of tensor names joined by '\\+', without spaces"),
        ("tensors:exempt=\ud800|int8", "not UTF-8"),
        ("rotate|" * STAGES + "int8", f"{STAGES + 1} stages, at most {STAGES}"),
        ("x" * (MOST + 1), f"{MOST + 1} characters, at most {MOST}"),
        ("ecsq:" + "delta=4," * 10**5, "characters, at most"),
        ("ecsq/", "has version 1 here, not an empty one"),
    ],
)
def test_what_is_no_spec_is_told_in_a_few_words(spec: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        plugins.codec(spec)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("way", ["up", "down"])
def test_spaces_around_auto_do_not_matter(way: Literal["up", "down"]) -> None:
    assert plugins.codec(" auto ", way) == plugins.codec(AUTO[way])


@pytest.mark.parametrize("name", ["1", "true", "1.5", "[w]", "2020-01-01", "w#1", "a=b", "*.bias+bn?"])
def test_patterns_are_text_whatever_they_look_like(name: str) -> None:
    for spec in (f"tensors:exempt={name}|int8", f"ring-rotq:exempt={name}"):
        codec = plugins.codec(spec)
        assert f"exempt={name}" in codec.spec
        assert plugins.codec(codec.spec).spec == codec.spec


@given(st.text(max_size=12))
def test_patterns_that_a_spec_string_cannot_hold_are_refused(exempt: str) -> None:
    """Else two pipelines would have one spec, and a payload of one would pass for the other's."""
    try:
        rules = TensorRules(exempt=exempt)
    except ConfigError:
        with pytest.raises(ConfigError):
            RingRotQ(exempt=exempt)
        return
    (part,) = parse(rules.spec)
    assert part.options["exempt"] == exempt


@pytest.mark.parametrize(
    "bad", ["x|rotate/1:shared=false", "a,below=0", "a:b", '"a"', "a'b", " a", "a\n", "\ud800"]
)
def test_such_patterns_are_these(bad: str) -> None:
    with pytest.raises(ConfigError, match="must be patterns of tensor names joined"):
        TensorRules(exempt=bad)
