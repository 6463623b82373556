"""Which folder a run goes into, and with which scenario: never over an existing run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedkit.config import Scenario
from fedkit.errors import CheckpointError, ConfigError
from fedkit.launch import saved_scenario
from fedkit.scenario import read

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
    if resume and out is None and is_run(Path(source)):
        return Path(source), [Launch(saved_scenario(Path(source), overrides), Path(source), True)]
    scenario = read(source, overrides)
    folder = out or (_latest(source) if resume else _fresh(source))
    if seeds == 1:
        return folder, [_launch(source, overrides, folder, resume)]
    return folder, [
        _launch(source, [*overrides, f"seed={seed}"], folder / f"seed-{seed}", resume)
        for seed in range(scenario.seed, scenario.seed + seeds)
    ]


def _launch(source: str, overrides: Sequence[str], folder: Path, resume: bool) -> Launch:
    holds = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    if resume and is_run(folder):
        return Launch(saved_scenario(folder, overrides), folder, True)
    if not holds or (resume and all(name == "lock" or name.endswith(".tmp") for name in holds)):
        return Launch(read(source, overrides), folder, bool(holds))
    if is_run(folder):
        raise ConfigError(f"{folder} holds a run: --resume continues it, --out DIR names another folder")
    raise ConfigError(f"{folder} is not empty and holds no run: give another --out")


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
