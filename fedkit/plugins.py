"""Plugins by name: entry points, files for trying out, and providers.

A name is one of
    fedprox             an entry point of the group;
    FILE.py:ATTR        an attribute of a Python file (pluginfile);
    provider:rest       the entry point `provider`, called with the string `rest` (flower:FedAdam). What is
                        made of it has this name as `plugin_name`, if devices are to be told of it.

A distribution may state the API version that it was built for, by an entry point of the group
`fedkit.api` whose name is the version: `"1" = "fedkit:API_VERSION"`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Literal, TypeAlias, cast

from fedkit import options, toml
from fedkit.codecs import AUTO, Codec, Stage, TensorRules, build
from fedkit.codecs.spec import Part, parse
from fedkit.errors import ConfigError, FedkitError, PluginError, nearest, shown
from fedkit.pluginfile import from_file, is_file, said
from fedkit.strategy import Strategy

GROUPS = ("strategies", "codecs", "trainers", "workloads", "federations", "scenarios")
API_GROUP = "fedkit.api"

Factory: TypeAlias = Callable[..., object]


def names(group: str) -> Mapping[str, tuple[str, str]]:
    """All entry points of `group`: name -> (value, "distribution version"), sorted by name.

    Raises PluginError if two distributions register one name.
    """
    found, doubled = listing(group)
    if doubled:
        raise PluginError("; ".join(doubled.values()))
    return found


def listing(group: str) -> tuple[Mapping[str, tuple[str, str]], Mapping[str, str]]:
    """What `names` returns, without the names that are registered twice, and these: name -> the error."""
    found: dict[str, tuple[str, str]] = {}
    doubled: dict[str, str] = {}
    for name, same in _entries(group).items():
        try:
            found[name] = (_one(group, name, same).value, _owner(same[0]))
        except PluginError as error:
            doubled[name] = str(error)
    return found, doubled


def has(group: str, name: str) -> bool:
    """Whether `group` has an entry point of this name, or its provider; PluginError if there are two."""
    found = _entries(group)
    known = name if name in found else name.partition(":")[0]
    return known in found and bool(_one(group, known, found[known]))


def load(group: str, name: str) -> object:
    """The object called `name` in `group`.

    Raises PluginError when there is none (with the nearest name), when two distributions claim the
    name, when its distribution was built for another API version, or when loading it fails.
    """
    if is_file(name):
        return from_file(name)
    found = _entries(group)
    if name in found:
        return _load(group, _one(group, name, found[name]))
    provider, colon, rest = name.partition(":")
    if colon and provider in found:
        made = _load(group, _one(group, provider, found[provider]))
        return _make(f"{_kind(group)} {name!r}", lambda: cast("Factory", made)(rest))
    raise PluginError(f"unknown {_kind(group)} {shown(name)}; {nearest(name[:200], found)}")


def strategy(name: str, given: Mapping[str, object] | None = None) -> Strategy:
    """The strategy called `name`, made with the options `given`.

    Raises PluginError for an unknown name and for what the class raises by mistake, ConfigError for
    an unknown option or a wrong value, which the class may also refuse by ValueError.
    """
    cls = cast("Factory", load("fedkit.strategies", name))
    known = options.check(
        cls, given or {}, lambda key, text: ConfigError(f"strategy {name!r}: {key}: {text}")
    )
    made = _make(f"strategy {name!r}", lambda: cls(**known))
    if not isinstance(made, Strategy):
        raise PluginError(f"strategy {name!r} makes a {type(made).__name__}, not a fedkit.Strategy")
    return made


def codec(spec: str, direction: Literal["up", "down"] = "up", files: bool = True) -> Codec:
    """The codec of a spec string: stages joined by `|`, each `name` or `name:key=value,key=value`.

    A name may state its version, as in `ecsq/1`, or be FILE.py:CLASS, unless `files` is False. `auto` is
    the default of the direction. Raises PluginError for an unknown name, ConfigError for an unknown key, a
    wrong value, a version that is not installed, or stages that do not go together.
    """
    parts = parse(AUTO[direction] if spec.strip() == "auto" else spec)
    if named := [part.name for part in parts if part.file and not files]:
        raise PluginError(f"codec {shown(named[0])} is a file, and only registered codecs are allowed here")
    return build([_stage(part, spec) for part in parts], spec)


def _stage(part: Part, spec: str) -> object:
    what = f"codec {shown(spec)}"
    try:
        cls = cast("Factory", load("fedkit.codecs", part.name))
    except PluginError as error:
        hint = "; patterns of exempt are joined by '+'" if "exempt=" in spec else ""
        raise PluginError(f"{error}{hint}") from error
    takes = options.signature(cls).parameters
    given = {
        k: _option(takes[k].annotation if k in takes else None, text) for k, text in part.options.items()
    }
    known = options.check(cls, given, lambda key, text: ConfigError(f"{what}: {key}: {text}"))
    made = _make(what, lambda: cls(**known))
    if not isinstance(made, Codec | Stage | TensorRules):
        raise PluginError(f"{what} makes a {type(made).__name__}, not a fedkit codec or stage")
    if part.version is not None and part.version != str(made.version):
        raise ConfigError(
            f"{what}: {part.name!r} has version {made.version} here, not {part.version or 'an empty one'}"
        )
    return made


def _option(annotation: object, text: str) -> object:
    """The value that is meant: text is text where text is wanted, even if it reads like a number."""
    value = toml.value(text)
    return text if annotation is str and not isinstance(value, str) else value


def _make(what: str, make: Callable[[], object]) -> object:
    """What a plugin makes; whatever its code raises becomes an error that names it."""
    try:
        return make()
    except FedkitError:
        raise
    except ValueError as error:
        raise ConfigError(f"{what}: {error}") from error
    except (Exception, SystemExit) as error:
        raise PluginError(f"{what} cannot be made: {said(error)}") from error


def strategy_name(instance: Strategy) -> str:
    """The name of an instance: that of its class's entry point, its own `plugin_name`, or its class's."""
    value = f"{type(instance).__module__}:{type(instance).__qualname__}"
    for entry in metadata.entry_points(group="fedkit.strategies"):
        if entry.value == value:
            return entry.name
    return str(getattr(instance, "plugin_name", type(instance).__qualname__))


def describe(thing: object) -> str:
    """The first line of the docstring of a plugin, or of its module when it is one."""
    text = (getattr(thing, "__doc__", None) or "").strip()
    return text.splitlines()[0] if text else ""


def _entries(group: str) -> dict[str, list[metadata.EntryPoint]]:
    found: dict[str, list[metadata.EntryPoint]] = {}
    for entry in sorted(metadata.entry_points(group=group), key=lambda e: e.name):
        found.setdefault(entry.name, []).append(entry)
    return found


def _one(group: str, name: str, found: list[metadata.EntryPoint]) -> metadata.EntryPoint:
    if len(found) > 1:
        owners = " and ".join(f"{_owner(e)} ({e.value})" for e in found)
        raise PluginError(
            f"{_kind(group)} {name!r} is registered by {owners}: uninstall one of them, or rename it"
        )
    return found[0]


def _load(group: str, entry: metadata.EntryPoint) -> object:
    _check_api(entry)
    try:
        return entry.load()
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{_kind(group)} {entry.name!r} of {_owner(entry)} cannot be loaded from {entry.value}: "
            f"{said(error)}"
        ) from error


def _check_api(entry: metadata.EntryPoint) -> None:
    from fedkit import API_VERSION, __version__

    stated = entry.dist.entry_points.select(group=API_GROUP) if entry.dist else ()
    for api in stated:
        if api.name != str(API_VERSION):
            raise PluginError(
                f"{_owner(entry)} was built for plugin API {api.name}, but fedkit {__version__} has API "
                f"{API_VERSION}: install versions that go together"
            )


def _owner(entry: metadata.EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"


def _kind(group: str) -> str:
    word = group.removeprefix("fedkit.")
    return {"strategies": "strategy"}.get(word, word.removesuffix("s"))
