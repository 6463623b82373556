"""Strict reading: each function takes its own type and refuses all others, naming the field."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit import fields
from fedkit.errors import WireError

VALUES: list[object] = [
    None,
    True,
    0,
    -1,
    2**53,
    2**53 + 1,
    1.5,
    math.nan,
    math.inf,
    "",
    "\ud800",
    [],
    {},
    {"a": 1},
]


def accepted(read: Callable[[object, str], object]) -> list[object]:
    """The members of VALUES that `read` lets through."""
    good = []
    for value in VALUES:
        with contextlib.suppress(WireError):
            read(value, "field")
            good.append(value)
    return good


def test_each_type_lets_its_own_values_through() -> None:
    assert accepted(fields.mapping) == [{}, {"a": 1}]
    assert accepted(fields.items) == [[]]
    assert accepted(fields.text) == [""]
    assert accepted(fields.integer) == [0, 2**53]
    assert accepted(fields.number) == [0, -1, 2**53, 1.5]
    assert accepted(fields.scalar) == [True, 0, -1, 2**53, 1.5, ""]


@pytest.mark.parametrize("read", [fields.mapping, fields.items, fields.text, fields.integer, fields.number])
def test_the_error_names_the_field(read: Callable[[object, str], object]) -> None:
    with pytest.raises(WireError, match="weight is not"):
        read(None, "weight")


def test_true_is_not_a_number() -> None:
    for read in (fields.integer, fields.number):
        with pytest.raises(WireError):
            read(True, "field")


def test_bounds_are_inclusive() -> None:
    assert fields.integer(3, "n", 3, 3) == 3
    assert fields.number(1, "x", 0.0, 1.0) == 1.0
    for value in (-0.001, 1.001):
        with pytest.raises(WireError, match="x is"):
            fields.number(value, "x", 0.0, 1.0)


def test_lists_have_the_length_asked_for() -> None:
    assert fields.items([1, 2], "pair", 2) == [1, 2]
    with pytest.raises(WireError, match="list of 2"):
        fields.items([1], "pair", 2)


def test_keys_are_exact() -> None:
    fields.exactly({"a": 1, "b": 2}, "b", "a")
    for wrong in ({"a": 1}, {"a": 1, "b": 2, "c": 3}, {}):
        with pytest.raises(WireError, match="not a, b"):
            fields.exactly(wrong, "a", "b")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_parse_reads_what_json_wrote(value: object) -> None:
    assert fields.parse(json.dumps(value).encode("ascii"), "value") == value


@given(st.binary(max_size=40))
def test_parse_raises_wire_error_only(data: bytes) -> None:
    try:
        value = fields.parse(data, "value")
    except WireError:
        return
    assert json.loads(data) == value


@pytest.mark.parametrize(
    "data",
    [b"NaN", b"[Infinity]", b"-Infinity", b'{"a":1,"a":1}', b'"\xc3\xa9"', b"[" * 5000, b"9" * 5000, b"1 2"],
)
def test_parse_refuses_what_is_not_plain_json(data: bytes) -> None:
    with pytest.raises(WireError, match="value is not plain JSON"):
        fields.parse(data, "value")
