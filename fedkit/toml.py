"""TOML beyond tomllib: where each key stands, values on a command line, and writing.

`dumps` writes what a scenario holds: tables of strings, numbers, booleans and lists of them.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence

from fedkit.errors import ConfigError, shown

_PART = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*\[\[?\s*({_DOTTED})\s*\]")
_ASSIGNMENT = re.compile(rf"\s*({_DOTTED})\s*=")
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def loads(text: str) -> dict[str, object]:
    """The tables of a TOML text. ValueError says what is wrong: not TOML, or beyond any use."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("arrays or tables are nested too deeply") from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # Python's own limit on the digits of an integer
        digits = re.search(r"\d{4000,}", text)
        line = text.count("\n", 0, digits.start()) + 1 if digits else 1
        raise ValueError(f"an integer has thousands of digits (at line {line}, column 1)") from None


def lines(text: str) -> dict[str, int]:
    """The line of every key and table header of a valid TOML text, by dotted path."""
    found: dict[str, int] = {}
    table, inside = "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if not inside:
            if header := _HEADER.match(line):
                table = _path(header[1])
                found.setdefault(table, number)
            elif key := _ASSIGNMENT.match(line):
                found.setdefault(f"{table}.{_path(key[1])}" if table else _path(key[1]), number)
        inside = _open_string(line, inside)
    return found


def _path(dotted: str) -> str:
    return ".".join(part.strip("\"'") for part in re.findall(_PART, dotted))


def _open_string(line: str, inside: str) -> str:
    """The delimiter of the multi-line string that is open after `line`, if any."""
    for delimiter in re.findall(r'"""|\'\'\'', line):
        if not inside:
            inside = delimiter
        elif inside == delimiter:
            inside = ""
    return inside


def value(text: str) -> object:
    """A value as typed on a command line: TOML if it is TOML, a number like `.1`, else the text.

    >>> value("5"), value("true"), value("[1, 2]"), value("fedprox"), value(".1")
    (5, True, [1, 2], 'fedprox', 0.1)

    Raises ConfigError on a value that is too deep or too long for any use.
    """
    try:
        parsed = loads(f"x = {text}")
    except tomllib.TOMLDecodeError:
        parsed = {}  # not TOML: the text itself is meant
    except ValueError as error:
        raise ConfigError(f"value {shown(text)} cannot be read: {error}") from None
    if parsed.keys() == {"x"}:
        return parsed["x"]
    return float(text) if re.fullmatch(r"[+-]?(\.\d+|\d+\.|\d+e[+-]?\d+)", text) else text


def dumps(table: Mapping[str, object]) -> str:
    """`table` as TOML: plain keys first, then its sub-tables. None is left out.

    Raises TypeError on a value that TOML has no word for.
    """
    out = [f"{_key(k)} = {_value(v)}" for k, v in table.items() if v is not None and not _is_table(v)]
    for name, section in table.items():
        if isinstance(section, Mapping):
            out += ["", f"[{_key(name)}]"]
            out += [f"{_key(k)} = {_value(v)}" for k, v in section.items() if v is not None]
    return "\n".join(out).lstrip("\n") + "\n"


def _is_table(item: object) -> bool:
    return isinstance(item, Mapping)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _string(name)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(item: object) -> str:
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, int):
        return str(item)
    if isinstance(item, float):
        return repr(item) if math.isfinite(item) else str(item)
    if isinstance(item, str):
        return _string(item)
    if isinstance(item, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in item.items()) + "}"
    if isinstance(item, Sequence):
        return "[" + ", ".join(_value(v) for v in item) + "]"
    raise TypeError(f"TOML has no word for {item!r}")
