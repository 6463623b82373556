"""A run as the pages see it: finished, failed, or still running."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkit.history import Outcome, RoundRecord, SecureRecord
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
    def time(self) -> str:
        """What the seconds of the federation are: "virtual time", or "time" where devices took part."""
        return "time" if self.text("clock") == "wall" else "virtual time"

    @property
    def codec(self) -> Mapping[str, object]:
        """What was decided about codecs; empty where the summary does not say."""
        return mapping(self.summary.get("codec"))

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


def mapping(value: object) -> Mapping[str, object]:
    """An object of JSON or TOML; empty where there is none."""
    return {str(k): v for k, v in value.items()} if isinstance(value, dict) else {}


def _main_metric(run: Run, names: set[str]) -> str:
    """What [stop] watches, else what the summary calls best, else the first that is no loss."""
    best = mapping(run.summary.get("best")).get("metric")
    for wish in (run.config.get("stop.metric"), best):
        if isinstance(wish, str) and wish in names:
            return wish
    return min(names, key=lambda name: (run.lower_is_better(name), name), default="")
