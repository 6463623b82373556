"""`fedkit new`: a plugin project or a scenario to start from."""

from __future__ import annotations

import importlib.util
import keyword
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from fedkit.errors import ConfigError, shown

app = typer.Typer(help="Start a strategy, a codec or a scenario of your own.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Letters, digits, - and _; it starts with a letter.")]
Folder = Annotated[Path, typer.Option("--dir", help="Where to put it.")]

_FILES = {
    "pyproject.toml": "pyproject.toml.tmpl",
    "README.md": "README.md.tmpl",
    "$package/__init__.py": "package.py.tmpl",
    "tests/test_$package.py": "test.py.tmpl",
}


@app.command("strategy")
def strategy(name: Name, folder: Folder = Path()) -> None:
    """Write a pip-installable project with a strategy, its entry point and its test."""
    _project("strategy", name, folder, "strategy.name=")


@app.command("codec")
def codec(name: Name, folder: Folder = Path()) -> None:
    """Write a pip-installable project with an update codec, its entry point and its test."""
    _project("codec", name, folder, "codec.up=")


def _project(kind: str, name: str, folder: Path, setting: str) -> None:
    from fedkit import API_VERSION, __version__

    _check(name)
    _check_free(kind, name.lower())
    package = name.replace("-", "_").lower()
    words: Mapping[str, str] = {
        "name": name.lower(),
        "package": package,
        "distribution": package.replace("_", "-"),
        "cls": "".join(part[:1].upper() + part[1:] for part in re.split("[-_]", name)),
        "version": __version__,
        "api": str(API_VERSION),
    }
    project = folder / name
    if project.exists():
        raise ConfigError(f"{project} exists already: give another name or --dir")
    for target, source in _FILES.items():
        _write(project / Template(target).substitute(words), f"{kind}/{source}", words)
    typer.echo(f"{project}\n\nNext:\n  cd {project}\n  pip install -e '.[test]'\n  pytest")
    typer.echo(f"  fedkit check {kind} {words['name']}\n  fedkit run digits {setting}{words['name']}")


@app.command("scenario")
def scenario(name: Name, folder: Folder = Path()) -> None:
    """Write NAME.toml: every key with its default and what it means."""
    name = name.removesuffix(".toml")
    _check(name)
    file = folder / f"{name}.toml"
    if file.exists():
        raise ConfigError(f"{file} exists already: give another name or --dir")
    _write(file, "scenario.toml.tmpl", {"name": name})
    typer.echo(f"{file}\n\nNext:\n  fedkit run {file}")


def _check(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z]([A-Za-z0-9_-]*[A-Za-z0-9])?", name) or keyword.iskeyword(name.lower()):
        raise ConfigError(
            f"name {shown(name)}: use letters, digits, - and _, with a letter first, a letter or a digit "
            "last, and no Python keyword"
        )


def _check_free(kind: str, name: str) -> None:
    """A name that is registered already would make both plugins unusable, a module's one of the two."""
    from fedkit import plugins

    group = {"strategy": "fedkit.strategies", "codec": "fedkit.codecs"}[kind]
    found, doubled = plugins.listing(group)
    if name in found or name in doubled:
        owner = found[name][1] if name in found else "two distributions"
        raise ConfigError(f"{kind} {name!r} is registered already, by {owner}: give another name")
    package = name.replace("-", "_")
    spec = importlib.util.find_spec(package)
    if spec is not None and spec.origin is not None:  # a folder without __init__.py has no origin
        raise ConfigError(
            f"{package!r} is the name of a Python module here ({spec.origin}): give another name, "
            "or your package would hide it"
        )


def _write(target: Path, source: str, words: Mapping[str, str]) -> None:
    template = resources.files("fedkit.cli").joinpath("templates", source).read_text(encoding="utf-8")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(Template(template).substitute(words), encoding="utf-8")
