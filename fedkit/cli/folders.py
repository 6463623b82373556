"""Which folder a run goes into, and with which scenario: never over an existing run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedkit.config import Scenario
from fedkit.errors import CheckpointError, ConfigError, nearest
from fedkit.launch import may_change, saved_scenario
from fedkit.scenario import changes, read, shipped

RUNS = Path("runs")


@dataclass(frozen=True)
class Launch:
    """One run to do. resume: the folder holds its beginning."""

    scenario: Scenario
    folder: Path
    resume: bool


def plan(
    source: str, overrides: Sequence[str], out: Path | None, resume: bool, seeds: int
) -> tuple[Path, list[Launch]]:
    """The folder of the whole and the runs in it: one, or one for each of `seeds` seeds.

    Raises ConfigError if the folder holds something else, CheckpointError if there is no run to
    resume.
    """
    if resume and out is None and _is_folder(source):
        return Path(source), [_continued(Path(source), overrides)]
    scenario = read(source, overrides)
    folder = out or (_latest(source) if resume else _fresh(source))
    if seeds == 1:
        return folder, [launch_into(source, overrides, folder, resume)]
    if is_run(folder):
        raise ConfigError(f"{folder} holds one run, not the runs of several seeds: give another --out")
    return folder, [
        launch_into(source, [*overrides, f"seed={seed}"], folder / f"seed-{seed}", resume)
        for seed in range(scenario.seed, scenario.seed + seeds)
    ]


def _is_folder(source: str) -> bool:
    """Whether what is to be resumed is a run folder; CheckpointError if it is nothing at all."""
    path = Path(source)
    if path.is_file() or path.suffix == ".toml" or (source in shipped() and not is_run(path)):
        return False
    if not path.is_dir():
        runs = [str(found) for found in RUNS.glob("*") if is_run(found)]
        raise CheckpointError(f"there is no folder {source!r} to resume; {nearest(source, runs)}")
    return True


def _continued(folder: Path, overrides: Sequence[str]) -> Launch:
    if not is_run(folder):
        raise CheckpointError(_held(folder) or f"{folder} holds no run to resume")
    return Launch(saved_scenario(folder, overrides), folder, True)


def launch_into(source: str, overrides: Sequence[str], folder: Path, resume: bool) -> Launch:
    """The run of a scenario in this folder: its continuation if `resume` and one has begun there."""
    holds = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    if resume and is_run(folder):
        launch = _continued(folder, overrides)
        _check_same(launch, source, read(source, overrides))
        return launch
    if not holds or (resume and all(name == "lock" or name.endswith(".tmp") for name in holds)):
        return Launch(read(source, overrides), folder, bool(holds))
    if is_run(folder):
        raise ConfigError(f"{folder} holds a run: --resume continues it, --out DIR names another folder")
    raise ConfigError(_held(folder) or f"{folder} is not empty and holds no run: give another --out")


def differing(folder: Path, source: str, overrides: Sequence[str]) -> list[str]:
    """The settings in which the run in a folder differs from a scenario, but for those that may change."""
    return _differing(saved_scenario(folder), read(source, overrides))


def _differing(one: Scenario, other: Scenario) -> list[str]:
    return [key for key in changes(one, other) if not may_change(key) and key != "description"]


def _check_same(launch: Launch, source: str, asked: Scenario) -> None:
    """ConfigError if the run in the folder was started with other settings than those asked for now."""
    if keys := _differing(launch.scenario, asked):
        raise ConfigError(
            f"{launch.folder} holds a run with other settings than {source}: {', '.join(keys)} differ; "
            f"continue that run as it is with: fedkit run {launch.folder} --resume, or start a new one"
        )


def _held(folder: Path) -> str:
    """What a folder that is no run of the command holds, and what to do with it; empty for anything else."""
    runs = sorted(path.name for path in folder.iterdir() if is_run(path))
    if runs:
        return (
            f"{folder} holds several runs ({', '.join(runs)}): continue seeds with: fedkit run SCENARIO "
            f"--seeds N --out {folder} --resume, or one run with: fedkit run {folder / runs[-1]} --resume"
        )
    if any((folder / name).is_file() for name in ("rounds.jsonl", "checkpoint.safetensors", "plan.json")):
        return (
            f"{folder} holds a run that Python started (it has no scenario.toml): continue it there, with "
            f"fedkit.run(..., out={str(folder)!r}, resume=True)"
        )
    return ""


def is_run(folder: Path) -> bool:
    """Whether `folder` holds a run, finished or not."""
    return (folder / "scenario.toml").is_file()


def _stem(source: str) -> str:
    return Path(source).name.removesuffix(".toml")


def _numbers(source: str) -> list[int]:
    prefix = f"{_stem(source)}-"
    tails = [path.name.removeprefix(prefix) for path in RUNS.glob(f"{prefix}*")]
    return [int(tail) for tail in tails if tail.isdigit()]


def _fresh(source: str) -> Path:
    return RUNS / f"{_stem(source)}-{max(_numbers(source), default=0) + 1}"


def _latest(source: str) -> Path:
    numbers = _numbers(source)
    if not numbers:
        raise CheckpointError(
            f"no run of {source!r} to resume in {RUNS}/: name it, as in fedkit run DIR --resume"
        )
    return RUNS / f"{_stem(source)}-{max(numbers)}"
