"""From a scenario to a run: build the objects that it names, and run them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from fedkit import plugins, workloads
from fedkit.aggregate import Grid
from fedkit.config import Aggregate, Scenario, SecAggSection
from fedkit.errors import CheckpointError, ConfigError, nearest
from fedkit.events import RunStarted
from fedkit.federation import Federation, RoundPolicy, closing
from fedkit.observers import EarlyStop
from fedkit.options import signature
from fedkit.rounds import Result, default_grid, run
from fedkit.runfolder import replace_file
from fedkit.scenario import changes, read, to_toml
from fedkit.scenario_tree import place_error
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.settings import SUITES, SecAgg
from fedkit.strategy import Strategy
from fedkit.trainer import Workload

_SECTIONS = "aggregate|codec|population|rounds|secagg|strategy"
"""Sections whose keys stand first in the errors of what is made from them."""


@dataclass(frozen=True)
class Built:
    """A scenario's objects. grid: None when [aggregate] leaves it to the workload."""

    strategy: Strategy
    workload: Workload
    federation: Federation
    policy: RoundPolicy
    grid: Grid | None


def build(scenario: Scenario, directory: Path | None = None) -> Built:
    """Make the strategy, the workload (this loads its data) and the federation of a scenario.

    directory: where a simulation keeps what clients remember; None keeps it in RAM.

    Raises ConfigError for a [train] key that the workload does not know, and whatever the plugins
    raise, DataError for a missing file among them.
    """
    strategy = _strategy(scenario)
    workload = make_workload(scenario)
    _check_train(scenario, workload)
    federation = _federation(scenario, workload, directory)
    keys = [field.name for field in dataclasses.fields(RoundPolicy)]
    policy = RoundPolicy(**{key: getattr(scenario.rounds, key) for key in keys})
    return Built(strategy, workload, federation, policy, _grid(scenario, workload, policy))


def _federation(scenario: Scenario, workload: Workload, directory: Path | None) -> Federation:
    """The federation, given of all this what it takes, and its own options."""
    make = cast("Any", plugins.load("fedkit.federations", scenario.federation.kind))
    takes = signature(make)
    given = {
        "seed": scenario.seed,
        "links": scenario.links,
        "devices": scenario.devices,
        "scenario": scenario,
        **({"directory": directory} if directory is not None else {}),
    }
    reach = {key: value for key, value in given.items() if key in takes.parameters}
    made: Federation = make(workload, **reach, **scenario.federation.options)
    return made


def _strategy(scenario: Scenario) -> Strategy:
    try:
        return plugins.strategy(scenario.strategy.name, scenario.strategy.options)
    except ConfigError as error:
        if not str(error).startswith("strategy."):
            raise type(error)(str(place_error(scenario.places, "strategy", str(error)))) from error
        raise _placed(scenario, error) from error


def make_workload(scenario: Scenario) -> Workload:
    """The workload of a scenario, with its data; raises what `build` raises."""
    try:
        return workloads.make(
            scenario.workload, scenario.workload_options, scenario.population, scenario.seed
        )
    except ConfigError as error:
        raise _placed(scenario, error) from error


def _placed(scenario: Scenario, error: ConfigError) -> ConfigError:
    """An error that begins with a key of one of _SECTIONS, with the place where that key was written."""
    found = re.match(rf"((?:{_SECTIONS})\.\w+)\b(?: = |: )?(.*)", str(error), re.S)
    return type(error)(str(place_error(scenario.places, found[1], found[2].strip()))) if found else error


def _check_train(scenario: Scenario, workload: Workload) -> None:
    known: Mapping[str, str] | None = getattr(workload, "train_settings", None)
    for key in scenario.train if known is not None else ():
        if key not in (known or {}):
            text = f"unknown key; {nearest(key, known or {})}"
            raise place_error(scenario.places, f"train.{key}", text)


def _grid(scenario: Scenario, workload: Workload, policy: RoundPolicy) -> Grid | None:
    """The grid of [aggregate]; None leaves it to `run`."""
    section = scenario.aggregate
    if section == Aggregate():
        return None
    try:
        return default_grid(workload, policy, section.max_delta, section.max_weight)
    except ConfigError as error:
        raise _placed(scenario, error) from error


def secure(section: SecAggSection) -> SecAgg | str:
    """[secagg] as `run` takes it."""
    if section.mode == "off":
        return "off"
    policy = Policy(section.corrupt, section.dropout, section.sigma, Mode(section.mode), section.n_min)
    return SecAgg(
        policy,
        section.width,
        (section.neighbours, section.threshold) if section.neighbours else None,
        SUITES["aes" if section.suite == "auto" else section.suite],
        section.retries,
        section.verify,
    )


def run_scenario(
    scenario: Scenario,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    observers: Sequence[object] = (),
) -> Result:
    """Run a scenario into the folder `out`; with `resume`, continue the run there.

    Raises what `build` and `fedkit.run` raise.
    """
    built = build(scenario, Path(out, "clients") if out is not None else None)
    with closing(built.federation):
        return run_built(scenario, built, out=out, resume=resume, observers=observers)


def run_built(
    scenario: Scenario,
    built: Built,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    observers: Sequence[object] = (),
) -> Result:
    """`run_scenario` with objects that were made already, or others in their place."""
    stop = scenario.stop
    extra: list[object] = (
        [EarlyStop(stop.metric, stop.target, stop.patience, stop.best)] if stop.metric else []
    )
    if resume and out is not None:
        extra.append(_KeepScenario(Path(out), to_toml(scenario)))
    try:
        return run(
            built.strategy,
            built.workload,
            built.federation,
            rounds=scenario.rounds.count,
            policy=built.policy,
            codec_up=scenario.codec.up,
            codec_down=scenario.codec.down,
            feedback=scenario.codec.feedback,
            down_base=scenario.codec.down_base,
            train=scenario.train,
            seed=scenario.seed,
            grid=built.grid,
            secagg=secure(scenario.secagg),
            evaluate_every=scenario.rounds.evaluate_every,
            evaluate_on=scenario.rounds.evaluate_on,
            observers=(*observers, *extra),
            out=out,
            resume=resume,
            scenario=to_toml(scenario),
        )
    except ConfigError as error:
        raise _placed(scenario, error) from error


@dataclass(frozen=True)
class _KeepScenario:
    """Writes what a resumed run may have changed, once the run has the folder to itself."""

    folder: Path
    text: str

    def run_started(self, event: RunStarted) -> None:
        replace_file(self.folder / "scenario.toml", self.text.encode())


def may_change(key: str) -> bool:
    """Whether a setting may change when a run is resumed: only how long it goes on."""
    return key in ("rounds.count", "rounds.max_failures") or key.startswith("stop.")


def saved_scenario(folder: Path, overrides: Sequence[str] = ()) -> Scenario:
    """The scenario of the run in `folder`, for continuing it.

    Overrides may change rounds.count, rounds.max_failures and [stop] alone: any other change would make it
    another run.
    Raises CheckpointError where there is no run, ConfigError for a change that is refused.
    """
    file = folder / "scenario.toml"
    if not file.is_file():
        raise CheckpointError(f"{folder}: there is no run to resume (no scenario.toml)")
    old, new = read(file), read(file, overrides)
    changed = [key for key in changes(old, new) if not may_change(key)]
    for key in sorted(changed, key=lambda key: not new.places.get(key, "").startswith("override")):
        text = (
            "a run that is resumed keeps its settings (rounds.count, rounds.max_failures and [stop] may "
            "change); start a new run"
        )
        raise place_error(new.places, key, text)
    return new
