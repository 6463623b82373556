"""Several runs side by side: those that differ only in the seed form a group."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedkit import pluginfile, plugins
from fedkit.errors import ConfigError
from fedkit.options import signature
from fedkit.report.data import Over, Run, without_folders
from fedkit.report.reading import read_run

_NOT_COMPARED = ("seed", "description")


@dataclass(frozen=True)
class Group:
    """Runs of one config. differs: the settings that set this group apart."""

    name: str
    runs: Sequence[Run]
    differs: Mapping[str, str]

    @property
    def spread(self) -> str:
        """`3 seeds`, or the one run's seed; `2 runs` if a seed is there twice."""
        seeds = {run.setting("seed") for run in self.runs}
        if len(self.runs) == 1:
            return f"seed {seeds.pop()}"
        return f"{len(seeds)} seeds" if len(seeds) == len(self.runs) else f"{len(self.runs)} runs"


@dataclass(frozen=True)
class Target:
    """A value of a metric that runs are timed against. given: by the scenarios, not by the runs."""

    metric: str
    value: float
    given: bool


@dataclass(frozen=True)
class Curve:
    """Mean of a group's runs, and the lowest and highest of them. All arrays: (points,)."""

    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def read_groups(folders: Sequence[Path]) -> list[Group]:
    """The runs of these folders, grouped, in the order given; ConfigError if there is none.

    A run without a scenario.toml, from Python, is a group of its own: what it shares is not known.
    """
    if not folders:
        raise ConfigError("nothing to compare: give the folders of one or more runs")
    unique = list(dict.fromkeys(Path(os.path.normpath(folder)) for folder in folders))
    found: dict[str, list[Run]] = {}
    for folder in unique:
        run = read_run(folder)
        config = sorted(_compared(run).items())
        found.setdefault(repr(config) if run.config else str(folder), []).append(run)
    members = list(found.values())
    differs = [_differences(runs[0], members) for runs in members]
    names = _names(members, differs)
    return [Group(*parts) for parts in zip(names, members, differs, strict=True)]


def metrics(groups: Sequence[Group]) -> list[str]:
    """Metrics that any run has; those of the first run first."""
    return list(dict.fromkeys(name for group in groups for run in group.runs for name in run.metrics))


def find_target(groups: Sequence[Group]) -> Target | None:
    """What [stop] asks for if all agree, else the best value of the main metric that every run reaches."""
    runs = [run for group in groups for run in group.runs]
    asked = {(run.config.get("stop.metric"), run.config.get("stop.target")) for run in runs}
    metric, value = asked.pop() if len(asked) == 1 else (None, None)
    if isinstance(metric, str) and metric and isinstance(value, int | float):
        return Target(metric, float(value), True)
    main = next(iter(metrics(groups)), "")
    bests = [run.best(main) for run in runs]
    reached = [best[1] for best in bests if best is not None]
    if not reached or len(reached) < len(runs):
        return None
    return Target(main, max(reached) if runs[0].lower_is_better(main) else min(reached), False)


def to_target(run: Run, target: Target, over: Over) -> float | None:
    """What was spent when the target was first reached; None if it never was."""
    lower = run.lower_is_better(target.metric)
    for spent, value in run.values(target.metric, over):
        if value <= target.value if lower else value >= target.value:
            return spent
    return None


def final(run: Run, metric: str) -> float | None:
    """The last value of a metric."""
    points = run.values(metric, "rounds")
    return points[-1][1] if points else None


def curve(group: Group, metric: str, over: Over) -> Curve:
    """Mean and range where every run of the group has values.

    Over rounds: at the rounds that all have evaluated. Else at 200 even steps, linearly between
    evaluations.
    """
    series = [np.array(run.values(metric, over), dtype=float).reshape(-1, 2) for run in group.runs]
    series = [points[np.isfinite(points[:, 1])] for points in series]
    if any(len(points) == 0 for points in series):
        return Curve((), (), (), ())
    if len(series) == 1:
        x = series[0][:, 0]
    elif over == "rounds":
        x = np.array(sorted(set.intersection(*(set(points[:, 0].tolist()) for points in series))))
    else:
        start, end = max(p[0, 0] for p in series), min(p[-1, 0] for p in series)
        x = np.linspace(start, max(start, end), 200)
    values = np.stack([np.interp(x, points[:, 0], points[:, 1]) for points in series])
    if len(series) == 1:
        values = series[0][:, 1][None, :]
    low, high = values.min(axis=0), values.max(axis=0)
    return Curve(x.tolist(), values.mean(axis=0).tolist(), low.tolist(), high.tolist())


def lost(run: Run) -> int:
    """Invitations whose update was never counted, not even in a later round; `unwanted` ones aside."""
    return sum(record.missing for record in run.rounds)


def _compared(run: Run) -> dict[str, str]:
    config = run.config or {key: run.setting(key) for key in ("workload", "strategy.name")}
    return {key: repr(value) for key, value in config.items() if key not in _NOT_COMPARED}


def _differences(run: Run, members: Sequence[Sequence[Run]]) -> dict[str, str]:
    every = [_compared(runs[0]) for runs in members]
    keys = list(dict.fromkeys(key for config in every for key in config))
    differing = [key for key in keys if len({config.get(key) for config in every}) > 1]
    return {key: run.setting(key) if key in _compared(run) else "–" for key in differing}


def _names(members: Sequence[Sequence[Run]], differs: Sequence[Mapping[str, str]]) -> list[str]:
    """Short names from what differs, if they tell the groups apart; else the first folder's name."""
    firsts = [runs[0] for runs in members]
    short = [_name(run, firsts, parts) for run, parts in zip(firsts, differs, strict=True)]
    if len(members) > 1 and len(set(short)) == len(short) and all(0 < len(name) <= 48 for name in short):
        return short
    names = [run.shown("strategy.name") if len(members) == 1 else run.name for run in firsts]
    names = [name or run.name for name, run in zip(names, firsts, strict=True)]
    if len(set(names)) < len(names):
        names = [str(run.folder) for run in firsts]
    return names


def _name(run: Run, firsts: Sequence[Run], differs: Mapping[str, str]) -> str:
    parts = {key: without_folders(value) for key, value in differs.items() if value != "–"}
    return ", ".join(
        value if key == "strategy.name" else f"{key.rpartition('.')[2]}={value}"
        for key, value in parts.items()
        if not _says_nothing(run, key, firsts)
    )


def _says_nothing(run: Run, key: str, firsts: Sequence[Run]) -> bool:
    """Whether it is an option that others lack, and at its default wherever the strategy is the same."""
    if not key.startswith("strategy.") or all(key in other.config for other in firsts):
        return False
    same = [other for other in firsts if other.setting("strategy.name") == run.setting("strategy.name")]
    default = _defaults(run.setting("strategy.name")).get(key.removeprefix("strategy."))
    return default is not None and all(other.config.get(key) == default for other in same)


def _defaults(strategy: str) -> Mapping[str, object]:
    """The defaults of a registered strategy; a file of someone's is not run for the sake of a name."""
    try:
        made = None if pluginfile.is_file(strategy) else plugins.load("fedkit.strategies", strategy)
    except ConfigError:
        return {}
    return {n: p.default for n, p in signature(made).parameters.items()} if callable(made) else {}
