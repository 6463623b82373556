"""`fedkit doctor`: what is installed, what the machine has, what is missing and how to get it."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from fedkit.cli.output import Format, FormatOption, echo_json, echo_table
from fedkit.cores import usable

_LIBRARIES = ("numpy", "cryptography", "safetensors", "typer", "rich")
_HIDDEN = ("dev", "all")
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}
"""Modules that are not called like what one installs."""


def doctor(output: FormatOption = Format.text) -> None:
    """Show versions, extras, hardware and data, and how to get what is missing."""
    rows = [{"what": what, "found": found, "how": how} for what, found, how in _findings()]
    if output is Format.json:
        echo_json(rows)
    else:
        echo_table(rows)


def _findings() -> Iterator[tuple[str, str, str]]:
    from fedkit import API_VERSION, __version__

    yield "fedkit", f"{__version__} (plugin API {API_VERSION})", ""
    yield "python", platform.python_version(), ""
    yield "platform", platform.platform(), ""
    for name in _LIBRARIES:
        yield name, _version(name) or "missing", "" if _version(name) else f"pip install {name}"
    yield from _extras()
    yield "cores", str(usable()), ""
    yield "memory", _memory(), ""
    yield ("accelerator", *_accelerator())
    yield ("data", *_data())
    yield from _plugins()


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _wanted() -> dict[str, list[str]]:
    """What each extra asks for, as fedkit's own metadata lists it."""
    wanted: dict[str, list[str]] = {}
    for line in metadata.requires("fedkit") or []:
        requirement = re.match(r"([A-Za-z0-9_.-]+).*;\s*extra == ['\"](\w+)['\"]", line)
        if requirement and requirement[2] not in _HIDDEN:
            wanted.setdefault(requirement[2], []).append(requirement[1])
    return wanted


def _extras() -> Iterator[tuple[str, str, str]]:
    for extra, names in _wanted().items():
        found = ", ".join(f"{name} {_version(name) or 'missing'}" for name in names)
        missing = any(not _version(name) for name in names)
        yield f"extra {extra}", found, f"pip install 'fedkit[{extra}]'" if missing else ""


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, ValueError, OSError):
        return "unknown on this platform"


def _accelerator() -> tuple[str, str]:
    if not _version("torch"):
        return "none (torch is not installed)", ""
    import torch

    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())), ""
    if torch.backends.mps.is_available():
        return "Apple MPS", ""
    return "none (CPU only)", ""


def _data() -> tuple[str, str]:
    how = "set FEDKIT_DATA to the folder of the data sets; docs/data.md says how to make them"
    folder = os.environ.get("FEDKIT_DATA", "")
    if not folder:
        return "FEDKIT_DATA is not set (digits and fedprox-synthetic need no data)", how
    files = sorted(path.name for path in Path(folder).glob("*.npz")) if Path(folder).is_dir() else []
    return f"{folder}: {', '.join(files) or 'no data set there'}", "" if files else how


def _plugins() -> Iterator[tuple[str, str, str]]:
    """Plugins that cannot be used, and how many can."""
    from fedkit import plugins
    from fedkit.errors import PluginError

    for kind in plugins.GROUPS:
        if kind == "scenarios":
            continue
        known, doubled = plugins.listing(f"fedkit.{kind}")
        yield f"plugins {kind}", ", ".join(known) or "none", ""
        for error in doubled.values():
            yield f"plugins {kind}", error, "uninstall one of the two"
        for name, (_, owner) in known.items():
            try:
                plugins.load(f"fedkit.{kind}", name)
            except PluginError as error:
                yield (f"plugins {kind}", *_broken(name, owner, error))


def _broken(name: str, owner: str, error: BaseException) -> tuple[str, str]:
    """Why a plugin cannot be used, and what to do: the row of a missing extra says how to get it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ModuleNotFoundError):
        cause = cause.__cause__
    module = (cause.name or "").partition(".")[0] if cause is not None else ""
    distribution = _DISTRIBUTIONS.get(module, module.replace("_", "-"))
    for extra, names in _wanted().items():
        if distribution in names:
            return f"{name} needs the extra {extra}", ""
    return str(error), f"mend or uninstall {owner}"
