"""Read a scenario: a TOML file or a shipped name, overrides on top, every key and value checked.

Errors name the place (`my.toml:14`, `override 'rounds.cohrt=5'`), the key and the nearest one known.
Options of plugins are checked against the plugin's own parameters, whose defaults are filled in, so
that the resolved scenario says all that a run depends on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any, cast, get_type_hints

from fedkit import options, pluginfile, plugins, toml
from fedkit.config import Population, Scenario
from fedkit.errors import ConfigError, nearest
from fedkit.scenario_rules import at, problems, without_effect
from fedkit.scenario_tree import NAMED, ScenarioTree, Tree, shipped
from fedkit.workloads import is_workload

__all__ = ["changes", "read", "shipped", "to_dict", "to_toml"]

_FREE = ("workload_options", "train")
_FILLED: Mapping[str, tuple[str, ...]] = {
    "workloads": ("population", "seed"),
    "strategies": (),
    "federations": ("workload", "seed", "links", "devices", "scenario", "directory"),
}
"""Parameters of plugins that other parts of the scenario fill in."""
_MAIN = {
    "codec": "up",
    "devices": "profile",
    "links": "profile",
    "population": "clients",
    "rounds": "count",
    "secagg": "mode",
    "stop": "metric",
    **NAMED,
}
"""The key that someone means who gives a section a value."""


def read(source: str | Path, overrides: Sequence[str] = ()) -> Scenario:
    """The scenario of a shipped name or a TOML file, with `key=value` overrides applied.

    An override whose key is no section, but an option of the workload, means that option: `data=FILE`
    is `workload_options.data=FILE`. FILE.py:ATTR and workload options called `data`, `path` or
    `..._path` are taken relative to the file they stand in, or to the working directory in an
    override and in a shipped scenario. An override that names another strategy, workload or
    federation drops the options that the file gives to the old one.

    Raises ConfigError with file, line, key and nearest key.
    """
    tree = ScenarioTree.open(str(source))
    tree.override(_with_full_keys(tree, overrides))
    hints = {name: hint for name, hint in get_type_hints(Scenario).items() if name != "places"}
    made: dict[str, Any] = {}
    for name, item in tree.tree.items():
        if name not in hints:
            kind = "section" if isinstance(item, dict) else "key"
            raise tree.fail(name, f"unknown {kind}; {_meant(tree, name, hints)}")
        made[name] = _entry(tree, name, hints[name], item)
    scenario = _with_plugins(tree, Scenario(**made, places=dict(tree.places)))
    for path, text in problems(scenario):
        raise tree.fail(path, text)
    return _effective(tree, scenario)


def to_dict(scenario: Scenario) -> Tree:
    """The scenario as plain tables, options beside the names they belong to; None is left out."""
    made: Tree = {}
    for name, item in _fields(scenario).items():
        if name == "places":
            continue
        table = _fields(item) if dataclasses.is_dataclass(item) else item
        if isinstance(table, dict):
            rest = cast("Tree", table.get("options", {})) if name in NAMED else {}
            both = {
                key: value for key, value in table.items() if name not in NAMED or key != "options"
            } | rest
            made[name] = {key: value for key, value in both.items() if value is not None}
        else:
            made[name] = table
    return made


def to_toml(scenario: Scenario) -> str:
    """The whole scenario as TOML; reading it back gives an equal one."""
    return toml.dumps(to_dict(scenario))


def changes(old: Scenario, new: Scenario) -> list[str]:
    """The dotted keys in which two scenarios differ, sorted."""
    one, two = _flat(to_dict(old)), _flat(to_dict(new))
    return sorted(key for key in one.keys() | two.keys() if one.get(key) != two.get(key))


def _fields(instance: object) -> Tree:
    return {f.name: getattr(instance, f.name) for f in dataclasses.fields(cast("Any", instance))}


def _flat(tree: Tree) -> Tree:
    flat: Tree = {}
    for name, item in tree.items():
        if isinstance(item, Mapping):
            flat |= {f"{name}.{key}": value for key, value in item.items()}
        else:
            flat[name] = item
    return flat


def _with_full_keys(tree: ScenarioTree, overrides: Sequence[str]) -> list[str]:
    """Overrides with `workload_options.` before a bare key that is an option of the workload."""
    known = {field.name for field in dataclasses.fields(Scenario)}
    keys = [override.partition("=")[0].strip() for override in overrides]
    bare = {key for key in keys if "." not in key and key not in known}
    if not bare:
        return list(overrides)
    named = [
        text.partition("=")[2].strip() for key, text in zip(keys, overrides, strict=True) if key == "workload"
    ]
    workload = (
        pluginfile.absolute(named[-1], Path.cwd()) if named else tree.tree.get("workload", Scenario.workload)
    )
    meant = bare & _takes("workloads", workload)
    both = zip(keys, overrides, strict=True)
    return [f"workload_options.{text.lstrip()}" if key in meant else text for key, text in both]


def _takes(group: str, name: object) -> set[str]:
    """The options of a plugin; none of one that cannot be loaded, which is an error of its own later."""
    try:
        thing = plugins.load(f"fedkit.{group}", str(name))
    except ConfigError:
        return set()
    found = options.signature(thing).parameters if callable(thing) and not is_workload(thing) else {}
    return found.keys() - set(_FILLED[group])


def _meant(tree: ScenarioTree, key: str, hints: Mapping[str, object]) -> str:
    """A hint for an unknown top-level key: the full keys that end so, or nearly so, else the nearest one."""
    strategy, train = tree.tree.get("strategy"), tree.tree.get("train")
    default = Scenario().strategy.name
    name = strategy.get("name", default) if isinstance(strategy, dict) else default
    sections: dict[str, set[str]] = {
        "train": set(train) if isinstance(train, dict) else set(),
        "strategy": _takes("strategies", name),
        "workload_options": _takes("workloads", tree.tree.get("workload", Scenario.workload)),
    }
    for section, cls in hints.items():
        if isinstance(cls, type) and dataclasses.is_dataclass(cls):
            sections.setdefault(section, set()).update(field.name for field in dataclasses.fields(cls))
    close = get_close_matches(key, sorted({*hints, *chain.from_iterable(sections.values())}), n=1)
    if not close or close[0] in hints:
        return nearest(key, hints)
    found = [f"{section}.{close[0]}" for section, keys in sections.items() if close[0] in keys]
    return f"did you mean {' or '.join(map(repr, found))}?"


def _effective(tree: ScenarioTree, scenario: Scenario) -> Scenario:
    """The scenario, without what its file says about a choice that an override has replaced.

    Raises ConfigError for any other key that was given and has no effect. The default may stand in
    a file, as it does in the scenario.toml of a run.
    """
    for key, needs, text in without_effect(scenario):
        section, _, name = key.partition(".")
        default = at(Scenario(), key)
        typed, replaced = (tree.places.get(path, "").startswith("override ") for path in (key, needs))
        if typed or (at(scenario, key) != default and not replaced):
            raise tree.fail(key, text)
        changed = dataclasses.replace(cast("Any", at(scenario, section)), **{name: default})
        scenario = dataclasses.replace(scenario, **{section: changed})
    return scenario


def _entry(tree: ScenarioTree, name: str, hint: object, item: object) -> object:
    """One top-level entry: a value, a section, or a free table."""
    is_section = dataclasses.is_dataclass(hint) or name in _FREE
    if not is_section:
        return options.typed(hint, item, name, tree.fail)
    if not isinstance(item, dict):
        key = f"; write {name}.{_MAIN[name]} = {item!r}" if name in _MAIN else ""
        raise tree.fail(name, f"is a section, not a value{key}")
    if name == "workload_options":
        return item
    if name == "train":
        kind = bool | int | float | str
        return {k: options.typed(kind, v, f"train.{k}", tree.fail) for k, v in item.items()}
    return _section(tree, name, cast("Callable[..., object]", hint), item)


def _section(tree: ScenarioTree, name: str, cls: Callable[..., object], table: Tree) -> object:
    hints = get_type_hints(cls)
    hints.pop("options", None)
    rest = {key: item for key, item in table.items() if key not in hints}
    if rest and name not in NAMED:
        key = next(iter(rest))
        raise tree.fail(f"{name}.{key}", f"unknown key; {nearest(key, hints)}")
    given = {
        key: options.typed(hints[key], item, f"{name}.{key}", tree.fail)
        for key, item in table.items()
        if key in hints
    }
    return cls(**given, options=rest) if name in NAMED else cls(**given)


def _with_plugins(tree: ScenarioTree, scenario: Scenario) -> Scenario:
    """The scenario with all options of its plugins, checked and with their defaults."""
    strategy, federation = scenario.strategy, scenario.federation
    chosen = _options(tree, "strategy.name", "strategies", strategy.name, strategy.options)
    reach = _options(tree, "federation.kind", "federations", federation.kind, federation.options)
    data = _options(tree, "workload", "workloads", scenario.workload, scenario.workload_options)
    _plugin(tree, "codec.up", plugins.codec, scenario.codec.up)
    _plugin(tree, "codec.down", lambda spec: plugins.codec(spec, "down"), scenario.codec.down)
    return dataclasses.replace(
        scenario,
        strategy=dataclasses.replace(strategy, options=chosen),
        federation=dataclasses.replace(federation, options=reach),
        workload_options=data,
        population=_population(tree, scenario),
    )


def _options(
    tree: ScenarioTree, path: str, group: str, name: str, given: Mapping[str, object]
) -> dict[str, object]:
    """The options of the plugin `name`, which stands at `path`."""
    section = "workload_options" if path == "workload" else path.partition(".")[0]

    def fail(key: str, text: str) -> ConfigError:
        return tree.fail(f"{section}.{key}", f"{text} (options of {name!r})")

    thing = _plugin(tree, path, lambda spec: plugins.load(f"fedkit.{group}", spec), name)
    if is_workload(thing):
        if given:
            raise fail(next(iter(given)), "unknown key; the workload is an object and takes no options")
        return {}
    if not callable(thing):
        raise tree.fail(path, f"{name!r} is a {type(thing).__name__}, which cannot be called")
    filled = [key for key in _FILLED[group] if key != "seed" or "seed" not in given]
    return options.check(thing, given, fail, filled)


def _plugin(tree: ScenarioTree, path: str, load: Callable[[str], object], name: str) -> object:
    try:
        return load(name)
    except ConfigError as error:
        raise type(error)(str(tree.fail(path, str(error)))) from error


def _population(tree: ScenarioTree, scenario: Scenario) -> Population:
    """[population], unless the workload brings its own clients."""
    thing = plugins.load("fedkit.workloads", scenario.workload)
    takes = not is_workload(thing) and "population" in options.signature(cast("Any", thing)).parameters
    keys = [path for path in tree.places if path.startswith("population.")]
    asked = [path for path in keys if tree.places[path].startswith("override")]
    if takes or scenario.population == Population():
        return scenario.population
    if tree.replaced and not asked:
        return Population()  # the file meant it for the workload that was replaced
    text = f"workload {scenario.workload!r} brings its own clients: leave [population] out"
    raise tree.fail((asked or ["population"])[0], text)
