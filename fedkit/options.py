"""Options against a signature: which keys a callable takes, and values in the types it wants."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from fedkit.errors import ConfigError, nearest, shown

Fail = Callable[[str, str], ConfigError]
"""(key, what is wrong) -> the error to raise."""

_PLAIN = (bool, int, float, str)
_WORDS: Mapping[object, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    Path: "a path",
    type(None): "'none'",
}


@dataclass(frozen=True)
class Parameter:
    """One keyword that a callable takes."""

    annotation: object
    default: object
    required: bool


@dataclass(frozen=True)
class Signature:
    """The keywords of a callable. open: it takes any others as well."""

    parameters: Mapping[str, Parameter]
    open: bool = False


def signature(factory: Callable[..., object]) -> Signature:
    """The keywords that `factory` (a function or a class) takes; annotations that cannot be
    evaluated count as absent."""
    try:
        listed = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return Signature({}, open=True)
    hints = _hints(factory)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = {
        p.name: Parameter(hints.get(p.name, Any), p.default, p.default is p.empty)
        for p in listed
        if p.kind in named
    }
    return Signature(found, any(p.kind is p.VAR_KEYWORD for p in listed))


def _hints(factory: Callable[..., object]) -> Mapping[str, object]:
    plain_class = isinstance(factory, type) and not is_dataclass(factory)
    source: object = getattr(factory, "__init__") if plain_class else factory  # noqa: B009
    try:
        return get_type_hints(source)
    except (NameError, TypeError, AttributeError):
        return {}


def check(
    factory: Callable[..., object], given: Mapping[str, object], fail: Fail, reserved: Collection[str] = ()
) -> dict[str, object]:
    """The options for `factory`: those given, in its types, then its plain defaults.

    `reserved` names parameters that are filled in by the caller. Raises what `fail` makes of an
    unknown key, a wrong type, or a required key that is missing.
    """
    takes = signature(factory)
    known = {n: p for n, p in takes.parameters.items() if n not in reserved}
    made: dict[str, object] = {}
    for key, item in given.items():
        if key not in known and (key in reserved or not takes.open):
            raise fail(key, f"unknown key; {nearest(key, known)}")
        made[key] = typed(known[key].annotation if key in known else Any, item, key, fail)
    for key, parameter in known.items():
        if key in made:
            continue
        if parameter.required:
            raise fail(key, f"is missing; it must be {describe(parameter.annotation)}")
        if _is_plain(parameter.default):
            made[key] = parameter.default
    return made


def _is_plain(item: object) -> bool:
    if isinstance(item, list | tuple):
        return all(isinstance(i, _PLAIN) for i in item)
    return isinstance(item, _PLAIN)


def typed(annotation: object, item: object, key: str, fail: Fail) -> object:
    """`item` as `annotation` wants it; raises what `fail` makes of the reason why it cannot be."""
    try:
        return coerce(annotation, item)
    except ValueError as error:
        raise fail(key, str(error)) from None


def coerce(annotation: object, item: object) -> object:
    """`item` as `annotation` wants it: an int where a float is expected, "none" for None.

    A bool is not an int; numbers are finite, integers fit 64 bits. ValueError says what the value
    must be.

    >>> coerce(float, 1), coerce(int | None, "none"), coerce(tuple[int, ...], [1, 2])
    (1.0, None, (1, 2))
    """
    _bounded(item)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return coerce(args[0], item)
    if origin in (Union, types.UnionType):
        return _one_of(args, annotation, item)
    if origin is Literal:
        return _literal(args, item)
    if annotation in _WORDS:
        return _scalar(annotation, item)
    kind = origin or annotation
    if isinstance(kind, type) and issubclass(kind, Iterable) and not issubclass(kind, Mapping):
        return _list(kind, args, annotation, item)
    return _any(item)


def _bounded(item: object) -> None:
    """ValueError for a number that no setting can mean."""
    if isinstance(item, float) and not math.isfinite(item):
        raise ValueError(f"must be finite, not {item!r}")
    if isinstance(item, int) and not -(2**63) <= item < 2**63:
        raise ValueError(f"must fit 64 bits, as TOML demands, not {shown(item)}")


def _scalar(annotation: object, item: object) -> object:
    if annotation is type(None) and (item is None or item == "none"):
        return None
    if annotation is float and isinstance(item, int | float) and not isinstance(item, bool):
        return float(item)
    if annotation is int and isinstance(item, int) and not isinstance(item, bool):
        return item
    if annotation is bool and isinstance(item, bool):
        return item
    if annotation in (str, Path) and isinstance(item, str):
        return item
    raise ValueError(f"must be {_WORDS[annotation]}, not {shown(item)}")


def _one_of(members: Sequence[object], annotation: object, item: object) -> object:
    """The first member that takes the item, int before float; strings win over "none" for None."""
    order: list[object] = [bool, int, float, str, Path, type(None)]
    ranked = sorted(members, key=lambda m: order.index(m) if m in order else -1)
    for member in ranked:
        try:
            return coerce(member, item)
        except ValueError:
            continue
    raise ValueError(f"must be {describe(annotation)}, not {shown(item)}")


def _literal(allowed: Sequence[object], item: object) -> object:
    if any(item == a and type(item) is type(a) for a in allowed):
        return item
    words = [a for a in allowed if isinstance(a, str)]
    hint = f"; {nearest(item, words)}" if isinstance(item, str) and words else ""
    if not hint.startswith("; did"):
        hint = f"; it must be {_choices(allowed)}"
    raise ValueError(f"unknown value {shown(item)}{hint}")


def _list(kind: type, args: Sequence[object], annotation: object, item: object) -> object:
    if not isinstance(item, list | tuple):
        raise ValueError(f"must be {describe(annotation)}, not {shown(item)}")
    fixed = kind is tuple and args and args[-1] is not Ellipsis
    if fixed and len(args) != len(item):
        raise ValueError(f"must have {len(args)} values, not {len(item)}")
    wanted = args if fixed else [args[0] if args else Any] * len(item)
    values = [coerce(a, i) for a, i in zip(wanted, item, strict=True)]
    return tuple(values) if kind is tuple else values


def _any(item: object) -> object:
    _bounded(item)
    if isinstance(item, Mapping):
        return {str(k): _any(v) for k, v in item.items()}
    if isinstance(item, list | tuple):
        return [_any(i) for i in item]
    if item is None or isinstance(item, _PLAIN):
        return item
    raise ValueError(f"must be a string, a number, true or false, or a list of them, not {shown(item)}")


def describe(annotation: object) -> str:
    """What a value must be, in words.

    >>> describe(int | None), describe(Literal["a", "b"])
    ("an integer or 'none'", "'a' or 'b'")
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(a) for a in args)
    if origin is Literal:
        return _choices(args)
    if annotation in _WORDS:
        return _WORDS[annotation]
    kind = origin or annotation
    if isinstance(kind, type) and issubclass(kind, Iterable) and not issubclass(kind, Mapping):
        return "a list"
    return "a value"


def _choices(allowed: Sequence[object]) -> str:
    return " or ".join(repr(a) for a in allowed)
