"""Reads a run folder: finished, failed, or still running."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import CheckpointError, ConfigError, WireError, shown
from fedkit.history import Outcome, RoundRecord, SecureRecord, secure_record
from fedkit.messages import ClientId, Metrics
from fedkit.summary import lower_is_better

Over: TypeAlias = Literal["rounds", "bytes", "seconds"]


@dataclass(frozen=True)
class Labels:
    """Label counts. counts: (clients, classes), int64."""

    classes: tuple[str, ...]
    clients: tuple[ClientId, ...]
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """One run folder. config: dotted key -> value. rounds: one record per round, in order. initial_secagg:
    how the metrics before them were summed in secret.
    """

    folder: Path
    config_text: str
    config: Mapping[str, object]
    environment: Mapping[str, str]
    labels: Labels | None
    summary: Mapping[str, object]
    initial: Metrics
    rounds: Sequence[RoundRecord]
    initial_secagg: SecureRecord | None = None

    @property
    def secure(self) -> list[tuple[str, SecureRecord]]:
        """What was summed in secret: of which round, counted from 1, and whether updates or metrics."""
        found = [("0, metrics", self.initial_secagg)]
        for record in self.rounds:
            found += [(f"{record.round + 1}", record.secagg)]
            found += [(f"{record.round + 1}, metrics", record.secagg_evaluate)]
        return [(name, one) for name, one in found if one is not None]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def status(self) -> str:
        """`done`, `failed` or `running` (which a killed run also says)."""
        return self.text("status") or "running"

    def text(self, key: str) -> str:
        """A text of summary.json; empty where it is missing."""
        value = self.summary.get(key)
        return "" if value is None else str(value)

    @property
    def codec(self) -> Mapping[str, object]:
        """What was decided about codecs; empty where the summary does not say."""
        return _mapping(self.summary.get("codec"))

    def setting(self, key: str) -> str:
        """A value of the config as text, with the summary as the fall-back; empty if neither has it."""
        value = self.config.get(key, self.summary.get(key.split(".")[0]))
        return "" if value is None else str(value)

    def shown(self, key: str) -> str:
        """A value of the config as text, files without their folders."""
        return without_folders(self.setting(key))

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Names of the evaluation metrics, the main one first; training metrics if there are no others."""
        names = set(self.initial).union(*(record.metrics for record in self.rounds))
        names = names or set[str]().union(*(record.train for record in self.rounds))
        main = _main_metric(self, names)
        return tuple(sorted(names, key=lambda name: (name != main, self.lower_is_better(name), name)))

    def lower_is_better(self, metric: str) -> bool:
        """Whether less of it is better: as [stop] says, else by its name."""
        said = self.config.get("stop.best") if self.config.get("stop.metric") == metric else "auto"
        return said == "min" if said in ("min", "max") else lower_is_better(metric)

    @cached_property
    def progress(self) -> Mapping[Over, Sequence[float]]:
        """What had been spent when so many rounds were done; entry 0 is before the first."""
        start = self.rounds[0].virtual_start
        spent = accumulate((r.bytes_up + r.bytes_down for r in self.rounds), initial=0)
        return {
            "rounds": [0.0, *(float(r.round + 1) for r in self.rounds)],
            "bytes": [float(b) for b in spent],
            "seconds": [0.0, *(r.virtual_end - start for r in self.rounds)],
        }

    def series(self, metric: str, over: Over, train: bool = False) -> list[tuple[float, float]]:
        """(spent, value) of an evaluation metric, or of the clients' training metric of that name."""
        found = [{} if train else self.initial, *((r.train if train else r.metrics) for r in self.rounds)]
        return [(x, m[metric]) for x, m in zip(self.progress[over], found, strict=True) if metric in m]

    def values(self, metric: str, over: Over) -> list[tuple[float, float]]:
        """The evaluations of a metric; where there are none, what the clients said while training."""
        return self.series(metric, over) or self.series(metric, over, train=True)

    def best(self, metric: str) -> tuple[float, float] | None:
        """(rounds done, value) of the best finite value; the earliest of equals."""
        sign = 1.0 if self.lower_is_better(metric) else -1.0
        finite = [(x, y) for x, y in self.values(metric, "rounds") if np.isfinite(y)]
        return min(finite, key=lambda point: (sign * point[1], point[0]), default=None)

    @property
    def bytes_up(self) -> list[int]:
        """Bytes that clients sent, per round."""
        return [record.bytes_up for record in self.rounds]

    @property
    def bytes_down(self) -> list[int]:
        """Bytes that clients received, per round."""
        return [record.bytes_down for record in self.rounds]

    @property
    def bytes_up_float32(self) -> list[int]:
        """What the counted updates would have taken as float32, per round."""
        return [record.bytes_up_float32 for record in self.rounds]

    @property
    def bytes_down_float32(self) -> list[int]:
        """A whole float32 model for each invited client, per round."""
        return [record.bytes_down_float32 for record in self.rounds]

    @property
    def rounds_failed(self) -> int:
        """Rounds that left the model unchanged."""
        return sum(not record.ok for record in self.rounds)

    def total(self, outcome: Outcome) -> int:
        """How many invitations of the whole run ended so."""
        return sum(record.count(outcome) for record in self.rounds)


def without_folders(text: str) -> str:
    """A setting with the absolute paths in it cut down to the files' names.

    >>> without_folders("/home/me/mine.py:Median"), without_folders("ecsq/1|/me/mine.py:Mine")
    ('mine.py:Median', 'ecsq/1|mine.py:Mine')
    """
    parts = text.split("|")
    return "|".join(re.split(r"[/\\]", p)[-1] if re.match(r"/|[A-Za-z]:[/\\]", p) else p for p in parts)


def read_run(folder: Path) -> Run:
    """The run in a folder; ConfigError if it is none or no round has ended yet."""
    _check(folder)
    summary = _summary(folder / "summary.json")
    initial = _mapping(summary.get("initial"))
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
        flat |= (
            _flat(_mapping(value), f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
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


def _mapping(value: object) -> Mapping[str, object]:
    return {str(k): v for k, v in value.items()} if isinstance(value, dict) else {}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _main_metric(run: Run, names: set[str]) -> str:
    """What [stop] watches, else what the summary calls best, else the first that is no loss."""
    best = _mapping(run.summary.get("best")).get("metric")
    for wish in (run.config.get("stop.metric"), best):
        if isinstance(wish, str) and wish in names:
            return wish
    return min(names, key=lambda name: (run.lower_is_better(name), name), default="")
