"""A scenario before it is checked: the TOML tree, where each key was written, overrides on top."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TypeAlias, cast

from fedkit import pluginfile, plugins, toml
from fedkit.config import FederationSection, StrategySection
from fedkit.errors import ConfigError, PluginError, nearest, shown

Tree: TypeAlias = dict[str, object]

NAMED = {"strategy": "name", "federation": "kind"}
"""Sections that name a plugin; all their other keys are its options."""
_DEFAULT = {"strategy": StrategySection().name, "federation": FederationSection().kind}


def place_error(places: Mapping[str, str], path: str, text: str, label: str = "") -> ConfigError:
    """The error for a dotted path, at the nearest place that is known, else at `label` or the file."""
    place = path
    while place and place not in places:
        place = place.rpartition(".")[0]
    inside = (at for known, at in places.items() if known.startswith(f"{path.partition('.')[0]}."))
    section, _, key = path.partition(".")
    shown = f"[{section}] {key}" if key else path
    files = (at.rpartition(":")[0] for at in places.values() if not at.startswith("override "))
    label = label or next(files, "scenario")
    return ConfigError(f"{places[place] if place else next(inside, label)}: {shown}: {text}")


class ScenarioTree:
    """A raw tree and its places: dotted key -> `my.toml:14` or `override 'a.b=1'`.

    replaced: an override names another workload than the file.
    """

    def __init__(self, label: str, tree: Tree, places: dict[str, str]) -> None:
        self.label, self.tree, self.places = label, tree, places
        self.replaced = False

    @classmethod
    def open(cls, source: str) -> ScenarioTree:
        """Parse a TOML file or a shipped scenario; ConfigError with the line if it is not TOML."""
        label, text, base = _text(source)
        try:
            tree = toml.loads(text)
        except ValueError as error:
            at = re.search(r"\(at line (\d+), column \d+\)", str(error))
            line = at[1] if at else len(text.splitlines())
            raise ConfigError(f"{label}:{line}: not valid TOML: {error}") from error
        made = cls(label, tree, {path: f"{label}:{line}" for path, line in toml.lines(text).items()})
        made._locate_files(tree, base)
        return made

    def fail(self, path: str, text: str) -> ConfigError:
        """The error for a dotted path, at the nearest place that is known."""
        return place_error(self.places, path, text, self.label)

    def override(self, overrides: Sequence[str]) -> None:
        """Put `key=value` strings over the tree."""
        added: Tree = {}
        for override in overrides:
            path, equals, text = override.partition("=")
            if not equals or not path.strip():
                raise ConfigError(f"override {shown(override)}: must be key=value, as in rounds.count=5")
            self.places[path.strip()] = f"override {shown(override, 200)}"
            self._put(added, path.strip(), toml.value(text.strip()))
        self._locate_files(added, Path.cwd())
        self._drop_replaced(added)
        for section, item in added.items():
            old = self.tree.get(section)
            merge = isinstance(old, dict) and isinstance(item, dict)
            self.tree[section] = cast("Tree", old) | cast("Tree", item) if merge else item

    def _locate_files(self, tree: Tree, base: Path) -> None:
        """Make the files that the tree names absolute; ConfigError for a name that no file can have."""
        for path, table, key in _file_names(tree):
            try:
                table[key] = _located(path, str(table[key]), base)
            except ConfigError as error:
                raise self.fail(path, str(error)) from error

    def _put(self, tree: Tree, path: str, item: object) -> None:
        section, dot, key = path.partition(".")
        table = tree.setdefault(section, {}) if dot else tree
        if not isinstance(table, dict):
            raise self.fail(path, f"{section!r} is given twice, once as a value and once as a section")
        cast("Tree", table)[key if dot else section] = item

    def _drop_replaced(self, added: Tree) -> None:
        """Options in the file belong to the plugin that the file names."""
        for section, key in NAMED.items():
            new, old = added.get(section), self.tree.get(section, {})
            if not isinstance(new, dict) or key not in new or not isinstance(old, dict):
                continue
            if new[key] != old.get(key, _DEFAULT[section]):
                self.tree[section] = {}
        if "workload" in added and added["workload"] != self.tree.get("workload"):
            self.tree.pop("workload_options", None)
            self.tree.pop("description", None)  # it describes the workload that was replaced
            self.replaced = True


def _file_names(tree: Tree) -> Iterator[tuple[str, Tree, str]]:
    """(dotted path, table, key) of every string that is or may hold a file's name."""
    for section, key in (("", "workload"), *NAMED.items(), ("codec", "up"), ("codec", "down")):
        table = tree.get(section) if section else tree
        if isinstance(table, dict) and isinstance(table.get(key), str):
            yield f"{section}.{key}".lstrip("."), table, key
    given = tree.get("workload_options")
    for key, item in given.items() if isinstance(given, dict) else ():
        if (key in ("data", "path") or key.endswith("_path")) and isinstance(item, str) and item:
            yield f"workload_options.{key}", cast("Tree", given), key


def _located(path: str, name: str, base: Path) -> str:
    if path.startswith("workload_options."):
        return str(pluginfile.locate(name, base))
    if path.startswith("codec."):
        return "|".join(pluginfile.absolute(part.strip(), base) for part in name.split("|"))
    return pluginfile.absolute(name, base)


def shipped() -> Mapping[str, tuple[str, str]]:
    """Scenarios that are installed: name -> (description, distribution)."""
    found: dict[str, tuple[str, str]] = {}
    for name, (file, owner) in _files().items():
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
        found[name] = (str(tree.get("description", "")), owner)
    return found


def _files() -> Mapping[str, tuple[Traversable, str]]:
    found: dict[str, tuple[Traversable, str]] = {}
    for module, owner in plugins.names("fedkit.scenarios").values():
        for file in resources.files(module).iterdir():
            name = file.name.removesuffix(".toml")
            if name == file.name:
                continue
            if name in found:
                raise PluginError(f"scenario {name!r} is shipped by {found[name][1]} and by {owner}")
            found[name] = (file, owner)
    return dict(sorted(found.items()))


def _text(source: str) -> tuple[str, str, Path]:
    """(label, text, directory of relative paths) of a file or a shipped scenario."""
    path = pluginfile.locate(source)
    if path.suffix == ".toml" or path.is_file():
        try:
            return source, path.read_text(encoding="utf-8"), path.parent
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{source} cannot be read: {error}") from error
    files = _files()
    if source not in files:
        raise ConfigError(
            f"no scenario {shown(source)}: it is neither a TOML file nor a shipped name; "
            f"{nearest(source, files)}"
        )
    return f"{source}.toml", files[source][0].read_text(encoding="utf-8"), Path.cwd()
