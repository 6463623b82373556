"""Reads a run folder: finished, failed, or still running."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np

from fedkit.errors import CheckpointError, ConfigError, WireError, shown
from fedkit.history import RoundRecord, SecureRecord, secure_record
from fedkit.report.data import Labels, Run, mapping


def read_run(folder: Path) -> Run:
    """The run in a folder; ConfigError if it is none or no round has ended yet."""
    _check(folder)
    summary = _summary(folder / "summary.json")
    initial = mapping(summary.get("initial"))
    text = _read(folder / "scenario.toml")
    rounds = _rounds(folder / "rounds.jsonl")
    if not rounds:
        cause = summary.get("error") or "try again when its first round is over"
        raise ConfigError(f"{folder}: the run has no finished round yet; {cause}")
    return Run(
        folder=folder,
        config_text=text,
        config=_config(folder / "scenario.toml", text),
        environment={k: str(v) for k, v in _json(folder / "environment.json").items()},
        labels=_labels(folder / "population.json"),
        summary=summary,
        initial={k: float(cast("float", v)) for k, v in initial.items() if _is_number(v)},
        rounds=rounds,
        initial_secagg=_initial_secagg(folder / "summary.json", summary),
    )


def _initial_secagg(path: Path, summary: Mapping[str, object]) -> SecureRecord | None:
    told = summary.get("initial_secagg")
    try:
        return secure_record(told, "initial_secagg") if told is not None else None
    except WireError as error:
        raise ConfigError(f"{path}: {error}; the file is damaged") from error


def _check(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give the folder that `fedkit run` wrote")
    if not (folder / "rounds.jsonl").is_file() and not (folder / "scenario.toml").is_file():
        inside = sorted(str(path.parent) for path in folder.glob("*/rounds.jsonl"))
        hint = f"did you mean {inside[-1]!r}?" if inside else "give the folder that `fedkit run` wrote"
        raise ConfigError(f"{folder}: not a run folder, it has no rounds.jsonl; {hint}")


def _rounds(path: Path) -> list[RoundRecord]:
    """Records by round; a last line that is still being written is left out, as a kill may leave it."""
    found: dict[int, RoundRecord] = {}
    lines = _read(path).split("\n")
    for number, line in enumerate(lines, 1):
        try:
            record = RoundRecord.from_json(line) if line.strip() else None
        except CheckpointError as error:
            if number == len(lines):
                break
            raise ConfigError(f"{path}, line {number}: {error}; the file is damaged") from error
        if record is not None:
            found[record.round] = record
    return [found[key] for key in sorted(found)]


def _config(path: Path, text: str) -> dict[str, object]:
    try:
        return _flat(tomllib.loads(text))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {error}; the file is damaged") from error


def _flat(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat |= _flat(mapping(value), f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


_KINDS: Mapping[str, type] = {
    "status": str,
    "error": str,
    "stopped": str,
    "model_sha256": str,
    "initial": dict,
    "metrics": dict,
    "best": dict,
    "codec": dict,
}
"""What some fields of summary.json must be where they are not null; all that are not here are numbers or
plain text to the pages."""
_NUMBERS = ("parameters", "wall_seconds", "virtual_seconds")


def _summary(path: Path) -> Mapping[str, object]:
    """summary.json, with the kinds of the fields that the pages compute with proven."""
    found = _json(path)
    for key, kind in _KINDS.items():
        if not isinstance(found.get(key), kind | None):
            raise _damaged(path, key, found[key])
    for key in _NUMBERS:
        if found.get(key) is not None and not _is_number(found[key]):
            raise _damaged(path, key, found[key])
    return found


def _labels(path: Path) -> Labels | None:
    found = _json(path)
    clients, classes = found.get("clients"), found.get("classes")
    if not clients or not classes:
        return None
    if not isinstance(classes, list):
        raise _damaged(path, "classes", classes)
    if not isinstance(clients, dict):
        raise _damaged(path, "clients", clients)
    for name, row in clients.items():
        if not isinstance(row, list) or len(row) != len(classes) or not all(map(_is_count, row)):
            raise ConfigError(f"{path}: clients.{name}: needs {len(classes)} counts, not {shown(row)}")
    counts = np.array(list(clients.values()), dtype=np.int64)
    return Labels(tuple(str(name) for name in classes), tuple(clients), counts)


def _is_number(value: object) -> bool:
    """A number that pages can draw with."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(cast("float", value)) <= 1e300


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _damaged(path: Path, key: str, value: object) -> ConfigError:
    return ConfigError(f"{path}: {key} is {shown(value)}; the file is damaged")


def _json(path: Path) -> Mapping[str, object]:
    """A JSON object; empty where there is no such file."""
    text = _read(path)
    try:
        found: object = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}; the file is damaged") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: holds {shown(found)}, not an object; the file is damaged")
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
