"""`run`: a federation from its parts to a result."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from fedkit import plugins
from fedkit.aggregate import Grid
from fedkit.codecs import Codec, require_downlink, require_uplink
from fedkit.downlink import Base
from fedkit.errors import ConfigError, nearest, shown
from fedkit.federation import Federation, RoundPolicy
from fedkit.history import History
from fedkit.job import Job
from fedkit.journal import Journal
from fedkit.loop import Loop, pick
from fedkit.messages import Settings
from fedkit.planning import check_policy, most_counted
from fedkit.runfolder import RunFolder
from fedkit.strategy import Strategy
from fedkit.tensors import Layout, Tensors
from fedkit.trainer import Workload, frozen, travelling


@dataclass(frozen=True)
class Result:
    """What a run came to. model: the whole last model. summary: what summary.json holds."""

    model: Tensors
    history: History
    summary: Mapping[str, Any]
    folder: Path | None = None


def run(
    strategy: Strategy | str,
    workload: Workload,
    federation: Federation | None = None,
    *,
    rounds: int,
    policy: RoundPolicy | None = None,
    codec_up: Codec | str = "none",
    codec_down: Codec | str = "none",
    feedback: Literal["auto", "on", "off"] = "auto",
    down_base: Literal["auto", "last", "first"] = "auto",
    train: Settings | None = None,
    seed: int = 0,
    grid: Grid | None = None,
    evaluate_every: int = 1,
    evaluate_on: Literal["server", "clients"] = "server",
    observers: Sequence[object] = (),
    out: Path | str | None = None,
    resume: bool = False,
    scenario: str = "",
) -> Result:
    """Run a federation for `rounds` rounds; returns the model, the history and the summary.

    strategy and codecs: instances, or names of plugins. federation: None simulates on this machine.
    feedback and down_base: as in [codec] of a scenario. train: settings of local training. grid: None
    takes the workload's largest weight, and |delta| up to 256. out: the run folder; with `resume` the
    run there is continued, else it must be empty. scenario: TOML text for the run folder. One seed
    fixes everything.

    Raises ConfigError before round 0, RunFailed when every client of a round fails or too many
    rounds in a row do, CheckpointError when a folder cannot be continued.
    """
    policy = policy if policy is not None else RoundPolicy()
    _check(policy, rounds, evaluate_every, evaluate_on)
    chosen = plugins.strategy(strategy) if isinstance(strategy, str) else strategy
    if not isinstance(chosen, Strategy):
        raise ConfigError(f"strategy is a {type(chosen).__name__}: give a Strategy, or the name of one")
    _check_workload(workload, train or {})
    up = plugins.codec(codec_up) if isinstance(codec_up, str) else codec_up
    down = plugins.codec(codec_down, "down") if isinstance(codec_down, str) else codec_down
    fed_back = _feedback(up, policy, feedback)
    require_uplink(up, fed_back)
    require_downlink(down)
    base = workload.init(seed)
    layout = travelling(base, frozen(workload), chosen.shared)
    extras = Layout.of(chosen.extras(pick(base, layout)))
    grid = grid if grid is not None else default_grid(workload, policy)
    base_of_frames = _down_base(policy, len(workload.clients()), down_base)
    uses = (fed_back, base_of_frames, most_counted(policy, len(workload.clients())))
    job = Job(chosen, up, down, layout, extras, grid, dict(train or {}), seed, *uses)
    federation = federation if federation is not None else _simulation(workload, seed, out)
    folder = RunFolder(out, resume) if out is not None else None
    try:
        journal = Journal(job, seed, folder)
        loop = Loop(job, workload, federation, base, policy, seed, tuple(observers), journal)
        loop.evaluate_every, loop.evaluate_on = evaluate_every, evaluate_on
        summary = loop.go(rounds, resume, scenario)
        return Result(loop.whole, loop.history, summary, folder.path if folder is not None else None)
    finally:
        if folder is not None:
            folder.close()


def default_grid(
    workload: Workload, policy: RoundPolicy, max_delta: float = 2.0**8, max_weight: float | None = None
) -> Grid:
    """A grid with room for every registered client, and for carried updates where there can be any.

    max_weight None: the workload's `max_weight`, or 2^10 when it does not say. Raises ConfigError.
    """
    told: Any = getattr(workload, "max_weight", 2.0**10)
    if max_weight is None and not (isinstance(told, numbers.Real) and 0 < cast("float", told) <= 1e30):
        raise ConfigError(f"the workload's max_weight is {shown(told)}: it must be a positive number")
    weight = max_weight if max_weight is not None else float(told)
    most = len(workload.clients()) * (policy.carry_rounds + 1 if policy.late == "carry" else 1)
    return Grid(weight, max_delta, max(2**12, 1 << max(0, most - 1).bit_length()))


def _feedback(codec: Codec, policy: RoundPolicy, feedback: Literal["auto", "on", "off"]) -> bool:
    """Whether clients keep residuals: those of clients that come rarely grow stale and do harm."""
    everyone = policy.cohort is None and policy.over_select == 1.0
    return feedback == "on" or (feedback == "auto" and everyone and codec.contractive and not codec.unbiased)


def _down_base(policy: RoundPolicy, clients: int, given: Literal["auto", "last", "first"]) -> Base:
    """From which version a model difference leads: a chain for those who come often, else one frame."""
    if given != "auto":
        return given
    cohort = policy.cohort if policy.cohort is not None else 1.0
    share = cohort if 0 < cohort < 1 or policy.cohort is None else cohort / clients
    return "last" if share >= 1 / 3 else "first"


def _check(policy: RoundPolicy, rounds: int, evaluate_every: int, evaluate_on: str) -> None:
    check_policy(policy)
    if rounds < 0 or evaluate_every < 1:
        raise ConfigError(f"rounds = {rounds} must be >= 0 and evaluate_every = {evaluate_every} >= 1")
    if policy.late == "carry" and evaluate_on == "clients":
        raise ConfigError(
            "rounds.late = 'carry' cannot be combined with rounds.evaluate_on = 'clients': late updates "
            "would arrive during evaluation; use evaluate_on = 'server' or late = 'drop'"
        )


def _check_workload(workload: Workload, train: Settings) -> None:
    """ConfigError unless it is a workload that knows the settings of local training."""
    lacking = [name for name in ("init", "clients", "trainer", "evaluate") if not hasattr(workload, name)]
    if lacking:
        raise ConfigError(f"workload is a {type(workload).__name__}, which has no {lacking[0]}()")
    known: Mapping[str, str] | None = getattr(workload, "train_settings", None)
    for key in train:
        if known is not None and key not in known:
            raise ConfigError(f"train.{key}: unknown key; {nearest(key, known)}")
    check = getattr(workload, "check_train", None)
    if check is not None:
        check(train)


def _simulation(workload: Workload, seed: int, out: Path | str | None) -> Federation:
    """The default federation, reached by name: the core imports no simulation."""
    factory = cast("Any", plugins.load("fedkit.federations", "simulation"))
    return cast(
        "Federation",
        factory(workload, seed=seed, directory=Path(out, "clients") if out is not None else None),
    )
