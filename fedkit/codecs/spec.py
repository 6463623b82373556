"""Spec strings taken apart: stages joined by `|`, each `name` or `name:key=value,key=value`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fedkit.codecs.checks import AUTO
from fedkit.errors import ConfigError, shown

MOST, STAGES = 4096, 16
"""Most characters of a spec string, and most stages."""


class Part(NamedTuple):
    """One stage as written: its name, the version it states (None: any), and its options as text.

    file: the name is FILE.py:CLASS.
    """

    name: str
    version: str | None
    options: Mapping[str, str]
    file: bool = False


def parse(spec: str) -> list[Part]:
    """The stages of a spec string, in its order; no name is looked up.

    A stage is FILE.py:CLASS only where the text before its first colon ends in .py: what stands further
    back is options. ConfigError, saying what is wrong, on text that is no spec string.
    """
    if len(spec) > MOST:
        raise ConfigError(f"codec {shown(spec)}: {len(spec)} characters, at most {MOST} are allowed")
    if not writable(spec):
        raise ConfigError(f"codec {shown(spec)}: holds bytes that are not UTF-8")
    texts = [text.strip() for text in spec.split("|")]
    if len(texts) > STAGES:
        raise ConfigError(f"codec {shown(spec)}: {len(texts)} stages, at most {STAGES} are allowed")
    if texts == [""]:
        raise ConfigError(f"codec {spec!r}: name a codec, as in 'int8'; 'none' sends all as it is")
    return [_part(text, spec) for text in texts]


def writable(text: str) -> bool:
    """Whether the text can be written as UTF-8: it holds no lone surrogate."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def _part(text: str, spec: str) -> Part:
    name, _, rest = text.partition(":")
    if not name:
        raise ConfigError(f"codec {shown(spec)}: a stage without a name: write NAME|NAME:key=value")
    if name.endswith(".py"):
        attribute, _, rest = rest.partition(":")
        return Part(f"{name}:{attribute}", None, _options(rest, spec), file=True)
    name, slash, version = name.partition("/")
    if name == "auto":
        raise ConfigError(
            f"codec {shown(spec)}: 'auto' stands alone, without options: write what it stands for, "
            f"{AUTO['up']!r} up and {AUTO['down']!r} down"
        )
    return Part(name, version if slash else None, _options(rest, spec))


def _options(text: str, spec: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = (piece.strip() for piece in item.partition("="))
        if not equals:
            raise ConfigError(
                f"codec {shown(spec)}: {shown(key)} is no option: write key=value, joined by ','; patterns "
                "of tensor names are joined by '+'"
            )
        if key in found:
            raise ConfigError(f"codec {shown(spec)}: {shown(key)} stands twice")
        found[key] = value
    return found
