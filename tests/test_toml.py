"""TOML: places of keys, values on a command line, writing."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit import toml
from fedkit.errors import ConfigError

_SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
_VALUES = st.one_of(_SCALARS, st.lists(_SCALARS, max_size=3))
_NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
_TABLES = st.dictionaries(
    _NAMES, st.one_of(_VALUES, st.dictionaries(_NAMES, _VALUES, max_size=3)), max_size=4
)


@given(_TABLES)
def test_what_is_written_reads_back(table: dict[str, object]) -> None:
    assert tomllib.loads(toml.dumps(table)) == table


def test_none_is_left_out_and_other_objects_are_refused() -> None:
    assert toml.dumps({"a": None, "b": {"c": None, "d": 1}}) == "[b]\nd = 1\n"
    with pytest.raises(TypeError, match="no word"):
        toml.dumps({"a": object()})


def test_lines_of_keys_tables_dotted_keys_and_quoted_keys() -> None:
    text = "\n".join(
        [
            "seed = 1",
            "rounds.count = 2",
            "",
            "[ strategy ] # comment",
            '"name" = "x"',
            "[a.'b']",
            "c = 1",
        ]
    )
    tomllib.loads(text)
    assert toml.lines(text) == {
        "seed": 1,
        "rounds.count": 2,
        "strategy": 4,
        "strategy.name": 5,
        "a.b": 6,
        "a.b.c": 7,
    }


def test_lines_inside_a_long_string_are_not_keys() -> None:
    text = 'a = """\nfake = 1\n[no]\n"""\nb = 2\n'
    tomllib.loads(text)
    assert toml.lines(text) == {"a": 1, "b": 5}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("1e-3", 1e-3),
        (".5", 0.5),
        ("3.", 3.0),
        ("true", True),
        ("True", "True"),
        ("fedprox", "fedprox"),
        ('"5"', "5"),
        ("[1, 2]", [1, 2]),
        ("my.py:Class", "my.py:Class"),
        ("", ""),
        ("1\ny = 2", "1\ny = 2"),
    ],
)
def test_values_typed_on_a_command_line(text: str, value: object) -> None:
    found = toml.value(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a = 1\nx = " + "9" * 5000, r"thousands of digits \(at line 2, column 1\)"),
        ("x = " + "[" * 20000, "nested too deeply"),
        ("x = " + "{a=" * 20000, "nested too deeply"),
    ],
)
def test_toml_that_is_beyond_any_use_is_refused_in_words(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        toml.loads(text)
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        toml.value(text.partition("x = ")[2])
    assert len(str(caught.value)) < 250
