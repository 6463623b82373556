"""A workload by its name: an entry point, FILE.py:ATTR or MODULE:ATTR; as it stands, or made by a factory."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, cast

from fedkit import options, pluginfile, plugins
from fedkit.config import Options, Population
from fedkit.errors import ConfigError, PluginError, nearest
from fedkit.trainer import Workload

GROUP = "fedkit.workloads"


def is_workload(thing: object) -> bool:
    """Whether `thing` is a Workload as it stands, not a factory of one."""
    methods = ("init", "clients", "trainer", "evaluate")
    return not isinstance(thing, type) and all(callable(getattr(thing, m, None)) for m in methods)


def load(name: str) -> object:
    """What `name` names. PluginError: nothing, or it cannot be imported."""
    module, colon, attribute = name.partition(":")
    if not colon or pluginfile.is_file(name) or module in plugins.names(GROUP):
        return plugins.load(GROUP, name)
    try:
        home = importlib.import_module(module)
    except Exception as error:
        raise PluginError(f"workload {name!r}: {module} cannot be imported: {error}") from error
    if not hasattr(home, attribute):
        public = [known for known in vars(home) if not known.startswith("_")]
        raise PluginError(f"workload {name!r}: {module} has no {attribute!r}; {nearest(attribute, public)}")
    return cast("object", getattr(home, attribute))


def make(name: str, given: Options, population: Population, seed: int) -> Workload:
    """The workload, with its data. population, seed: for factories that take them.

    ConfigError: an option that it does not take; PluginError: as `load`, or what it makes is no workload.
    """
    thing = load(name)
    if is_workload(thing):
        for key in given:
            raise _wrong(name, key, "unknown key; the workload is an object and takes no options")
        return cast("Workload", thing)
    if not callable(thing):
        raise PluginError(f"workload {name!r} is a {type(thing).__name__}, neither a workload nor a factory")
    takes = options.signature(thing).parameters
    fills: Mapping[str, object] = {"population": population, "seed": seed}
    filled = {key: value for key, value in fills.items() if key in takes and key not in given}
    known = options.check(thing, given, lambda key, text: _wrong(name, key, text), filled)
    made = cast("Any", thing)(**filled, **known)
    if not is_workload(made):
        raise PluginError(
            f"workload {name!r} makes a {type(made).__name__}, which is no Workload: "
            "it lacks one of init, clients, trainer, evaluate"
        )
    return cast("Workload", made)


def _wrong(name: str, key: str, text: str) -> ConfigError:
    return ConfigError(f"workload {name!r}: {key}: {text}")
