"""Strict reading of JSON that comes from outside: exact keys, exact types, finite numbers.

Each function returns the value with its type proven or raises WireError naming the field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import NoReturn, TypeAlias

from fedkit.errors import WireError

Fields: TypeAlias = Mapping[str, object]

INTEGER_LIMIT = 2**53
"""Integers beyond are held inexactly by JSON readers of other languages."""


def parse(data: bytes, what: str) -> object:
    """The JSON value in ASCII `data`: no repeated key, no NaN, no infinity."""
    try:
        value: object = json.loads(
            data.decode("ascii"), object_pairs_hook=_unique, parse_constant=_not_a_number
        )
    except (ValueError, RecursionError) as error:
        raise WireError(f"{what} is not plain JSON: {error}") from error
    return value


def mapping(value: object, name: str) -> Fields:
    """A JSON object."""
    if not isinstance(value, dict):
        raise WireError(f"{name} is not an object")
    return value


def items(value: object, name: str, count: int | None = None) -> list[object]:
    """A JSON array, of `count` items unless that is None."""
    if not isinstance(value, list) or count not in (None, len(value)):
        raise WireError(f"{name} is not a list" + (f" of {count}" if count is not None else ""))
    return value


def exactly(fields: Fields, *names: str) -> None:
    """The keys of `fields` are `names`, no more and no less."""
    if fields.keys() != set(names):
        raise WireError(f"fields are {', '.join(sorted(fields))}, not {', '.join(names)}")


def text(value: object, name: str) -> str:
    """A string that can be written as UTF-8 (no lone surrogate)."""
    if not isinstance(value, str):
        raise WireError(f"{name} is not a string")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise WireError(f"{name} holds a lone surrogate")
    return value


def integer(value: object, name: str, low: int = 0, high: int = INTEGER_LIMIT) -> int:
    """An integer in [low, high]."""
    if type(value) is not int or not low <= value <= high:
        raise WireError(f"{name} is not an integer in [{low}, {high}]")
    return value


def number(value: object, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number in [low, high]; an integer counts as one."""
    if type(value) is int:
        integer(value, name, -INTEGER_LIMIT)
    elif type(value) is not float:
        raise WireError(f"{name} is not a number")
    if not math.isfinite(value) or not low <= value <= high:
        raise WireError(f"{name} is {value!r}: it must be finite and in [{low:g}, {high:g}]")
    return float(value)


def scalar(value: object, name: str) -> float | int | str | bool:
    """A boolean, an integer, a finite number or a string."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return integer(value, name, -INTEGER_LIMIT)
    return text(value, name) if isinstance(value, str) else number(value, name)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is repeated")
    return made


def _not_a_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")
