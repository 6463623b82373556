"""Plugins from files, for trying out: FILE.py:NAME."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import cast

from fedkit.errors import ConfigError, PluginError, nearest, shown


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


def from_file(name: str) -> object:
    """What FILE.py:NAME means; the file is loaded once, under `module_name`. Raises PluginError."""
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
        raise PluginError(f"{path}:{_line(error, path)}: {said(error)}") from error
    return module


def _line(error: BaseException, path: Path) -> int:
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((f.lineno or 0 for f in reversed(frames) if f.filename == str(path)), 0)


def said(error: BaseException) -> str:
    """What happened in a plugin's code. A SystemExit is as much of a mistake there as any exception."""
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({error.code!r}): let it raise an exception instead"
    return f"{type(error).__name__}: {error}"
