"""Options against signatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from fedkit import options
from fedkit.errors import ConfigError


def _fail(key: str, text: str) -> ConfigError:
    return ConfigError(f"{key}: {text}")


def _factory(
    path: str,
    size: int = 3,
    rate: float = 0.5,
    mode: Literal["a", "b"] = "a",
    widths: tuple[int, ...] = (4, 5),
    name: str | None = None,
    seed: int = 0,
) -> None: ...


def test_given_options_come_in_the_types_asked_for_and_defaults_are_filled_in() -> None:
    made = options.check(_factory, {"path": "x", "rate": 1, "widths": [7]}, _fail, reserved=("seed",))
    assert made == {"path": "x", "rate": 1.0, "widths": (7,), "size": 3, "mode": "a"}
    assert isinstance(made["rate"], float)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"path": "x", "siz": 1}, "siz: unknown key; did you mean 'size'?"),
        ({}, "path: is missing; it must be a string"),
        ({"path": 3}, "path: must be a string, not 3"),
        ({"path": "x", "size": 1.5}, "size: must be an integer, not 1.5"),
        ({"path": "x", "size": True}, "size: must be an integer, not True"),
        ({"path": "x", "rate": "fast"}, "rate: must be a number, not 'fast'"),
        ({"path": "x", "mode": "c"}, "mode: unknown value 'c'; it must be 'a' or 'b'"),
        ({"path": "x", "widths": 4}, "widths: must be a list, not 4"),
        ({"path": "x", "widths": ["a"]}, "widths: must be an integer, not 'a'"),
        ({"path": "x", "seed": 3}, "seed: unknown key"),
    ],
)
def test_what_is_wrong_is_said(given: Mapping[str, object], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        options.check(_factory, given, _fail, reserved=("seed",))
    assert str(caught.value).startswith(text)


def test_a_callable_with_keywords_takes_any_but_reserved_ones() -> None:
    def anything(workload: object, **rest: object) -> None: ...

    assert options.check(anything, {"x": [1, "a"]}, _fail, reserved=("workload",)) == {"x": [1, "a"]}
    with pytest.raises(ConfigError, match="unknown key"):
        options.check(anything, {"workload": 1}, _fail, reserved=("workload",))


def test_fields_of_a_dataclass_and_of_its_base_are_parameters() -> None:
    from fedkit_strategies.fedprox import FedProx

    assert options.check(FedProx, {"mu": 1}, _fail) == {"mu": 1.0, "lr": 1.0}


def test_annotations_that_cannot_be_evaluated_take_any_plain_value() -> None:
    def odd(x: Missing = 1) -> None: ...  # type: ignore[name-defined] # noqa: F821

    assert options.check(odd, {"x": "y"}, _fail) == {"x": "y"}


@pytest.mark.parametrize(
    ("annotation", "item", "made"),
    [
        (int | float | None, 5, 5),
        (float | int, 5, 5),
        (int | float | None, 0.5, 0.5),
        (int | None, "none", None),
        (str | None, "none", "none"),
        (Annotated[int, "note"], 3, 3),
        (Path, "a/b", "a/b"),
        (Sequence[int], (1, 2), [1, 2]),
        (list[str], ["a"], ["a"]),
        (tuple[int, str], [1, "a"], (1, "a")),
        (Any, {"a": [1]}, {"a": [1]}),
    ],
)
def test_coerce(annotation: object, item: object, made: object) -> None:
    found = options.coerce(annotation, item)
    assert found == made
    assert type(found) is type(made)


@pytest.mark.parametrize(
    ("annotation", "item"),
    [
        (bool, 1),
        (float, True),
        (int, 1.0),
        (str, 1),
        (int | None, "non"),
        (tuple[int, str], [1]),
        (Any, object()),
    ],
)
def test_coerce_refuses(annotation: object, item: object) -> None:
    with pytest.raises(ValueError, match="must"):
        options.coerce(annotation, item)


def test_classes_without_a_readable_signature_are_open() -> None:
    @dataclass
    class Plain:
        x: int = 1

    assert not options.signature(Plain).open
    assert options.signature(dict).open


@pytest.mark.parametrize(
    ("annotation", "item", "text"),
    [
        (float, float("nan"), "must be finite, not nan"),
        (float, 10**400, "must fit 64 bits, as TOML demands, not an integer of 1329 bits"),
        (int, 2**63, "must fit 64 bits"),
        (int | float | str, float("inf"), "must be finite, not inf"),
        (Any, {"a": [1.0, float("-inf")]}, "must be finite, not -inf"),
        (list[float], [1.0, float("nan")], "must be finite, not nan"),
        (int, "x" * 5000, r"must be an integer, not 'x+\.\.\.x+'$"),
    ],
)
def test_numbers_that_no_setting_can_mean_are_refused(annotation: object, item: object, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        options.coerce(annotation, item)
    assert len(str(caught.value)) < 200
