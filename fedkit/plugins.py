"""Plugins by name: entry points, files for trying out, and providers.

A name is one of
    fedprox             an entry point of the group;
    FILE.py:ATTR        an attribute of a Python file, loaded under a name derived from its path;
    provider:rest       the entry point `provider`, called with the string `rest` (flower:FedAdam). What is
                        made of it has this name as `plugin_name`, if devices are to be told of it.

A distribution may state the API version that it was built for, by an entry point of the group
`fedkit.api` whose name is the version: `"1" = "fedkit:API_VERSION"`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Literal, TypeAlias, cast

from fedkit import options, toml
from fedkit.codecs import AUTO, Codec, Stage, TensorRules, build
from fedkit.codecs.spec import Part, parse
from fedkit.errors import ConfigError, FedkitError, PluginError, nearest, shown
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
        return _from_file(name)
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
        raise PluginError(f"{what} cannot be made: {_said(error)}") from error


def _said(error: BaseException) -> str:
    """What happened in a plugin's code. A SystemExit is as much of a mistake there as any exception."""
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({error.code!r}): let it raise an exception instead"
    return f"{type(error).__name__}: {error}"


def is_file(name: str) -> bool:
    """Whether `name` is FILE.py:ATTR."""
    return re.search(r"\.py(:|$)", name) is not None


def absolute(name: str, base: Path) -> str:
    """`name` with its file, if it is FILE.py:ATTR, made absolute from `base`; ConfigError if it cannot be."""
    match = re.fullmatch(r"(.+\.py)(:.*)?", name, re.S)
    return f"{locate(match[1], base)}{match[2] or ''}" if match else name


def locate(file: str, base: Path = Path()) -> Path:
    """The absolute path of a file named in a scenario; ConfigError for a name that no file can have."""
    try:
        path = (base / Path(file).expanduser()).resolve()
        path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, ~nobody
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{shown(file)} cannot be used as a file: {reason}") from error
    return path


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
            f"{_said(error)}"
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


def _from_file(name: str) -> object:
    file, _, attribute = name.rpartition(":")
    if not file.endswith(".py") or not attribute:
        raise PluginError(f"{name!r}: say which object of the file you mean, as FILE.py:NAME")
    module = _module(locate(file))
    if not hasattr(module, attribute):
        raise PluginError(f"{file} has no {attribute!r}; {nearest(attribute, _defined(module))}")
    return cast("object", getattr(module, attribute))


def _defined(module: ModuleType) -> list[str]:
    """The public names that a file defines itself, at its top level; imported ones are not meant."""
    found: list[str] = []
    for node in ast.parse(Path(module.__file__ or "").read_bytes()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [node for target in targets for node in ast.walk(target)]
            found += [n.id for n in names if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    return [name for name in found if not name.startswith("_")]


def module_name(path: Path) -> str:
    """The module name of a plugin file: the same in every process that sees the same path."""
    stem = re.sub(r"\W", "_", path.stem)
    return f"fedkit_file_{stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _module(path: Path) -> ModuleType:
    name = module_name(path)
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise PluginError(f"no such file: {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look their module up by name
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last, so that the file's neighbours shadow nothing
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise PluginError(f"{path}:{_line(error, path)}: {_said(error)}") from error
    return module


def _line(error: BaseException, path: Path) -> int:
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((f.lineno or 0 for f in reversed(frames) if f.filename == str(path)), 0)
