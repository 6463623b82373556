"""`run`: a federation from its parts to a result."""

from __future__ import annotations

import logging
import numbers
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from fedkit import plugins
from fedkit.aggregate import Grid
from fedkit.arguments import (
    check_codec,
    check_federation,
    check_folder,
    check_grid,
    check_strategy,
    check_train,
    check_workload,
    client_ids,
    layouts,
    one_of,
    title_of,
    whole,
    whole_model,
)
from fedkit.codecs import Codec, demand_matches, notices, require_downlink, require_uplink
from fedkit.coding import demand_lengths
from fedkit.downlink import Base
from fedkit.errors import ConfigError, shown
from fedkit.events import check_observers
from fedkit.federation import Federation, RoundPolicy
from fedkit.fingerprint import fingerprint
from fedkit.history import History
from fedkit.job import Job
from fedkit.journal import Journal
from fedkit.loop import Loop
from fedkit.messages import Settings
from fedkit.planning import check_policy, most_counted
from fedkit.runfolder import RunFolder
from fedkit.secagg.settings import SecAgg
from fedkit.securecheck import check_secagg, demand_reach, demand_secure, fitting_codec, metric_names, settled
from fedkit.strategy import Strategy
from fedkit.tensors import Layout, Tensors
from fedkit.trainer import Workload

log = logging.getLogger("fedkit")


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
    secagg: SecAgg | str = "off",
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
    takes the workload's largest weight, and |delta| up to 256. secagg: settings of secure aggregation,
    the name of a mode of [secagg], or "off". out: the run folder; with `resume` the run there is
    continued, else it must be empty. scenario: TOML text for the run folder. One seed fixes everything.

    Raises ConfigError before round 0, RunFailed when every client of a round fails or too many
    rounds in a row do, CheckpointError when a folder cannot be continued.
    """
    policy = check_policy(policy if policy is not None else RoundPolicy())
    rounds, seed = whole("rounds", rounds, 0), whole("seed", seed, 0, 2**64 - 1)
    every = whole("evaluate_every", evaluate_every, 1)
    _check_choices(policy, feedback, down_base, evaluate_on)
    path, watching = check_folder(out, resume), check_observers(observers)
    chosen, settings = check_strategy(strategy), check_train(train)
    check_workload(workload, settings)
    title, clients = title_of(scenario, workload), client_ids(workload, policy)
    secure = settled(check_secagg(secagg), policy, len(clients))
    ways = _ways(policy, len(clients), secure, (codec_up, codec_down), feedback, down_base)
    base = whole_model(workload, seed)
    grid = check_grid(grid) if grid is not None else default_grid(workload, policy)
    job = _job(chosen, workload, base, ways, grid, settings, seed)
    demand_secure(job, policy, len(clients))
    mark = fingerprint(job, policy, workload, base, clients)
    federation = check_federation(federation) if federation is not None else _simulation(workload, seed, path)
    if secure is not None:
        demand_reach(secure, federation)
    with ExitStack() as stack:
        folder = stack.enter_context(closing(RunFolder(path, resume))) if path is not None else None
        loop = Loop(job, workload, federation, base, policy, seed, watching, Journal(job, seed, folder, mark))
        loop.evaluate_every, loop.evaluate_on = every, evaluate_on
        loop.title, loop.clients = title, clients
        summary = loop.go(rounds, resume, scenario)
        model = {name: np.array(array) for name, array in loop.whole.items()}
        return Result(model, loop.history, summary, path)


@dataclass(frozen=True)
class _Ways:
    """How updates and models travel. fed_back: whether clients keep residuals. most: updates in a sum."""

    up: Codec
    down: Codec
    fed_back: bool
    start: Base
    most: int
    secure: SecAgg | None

    def demand_fit(self, layout: Layout) -> None:
        """ConfigError where a codec cannot carry this model; what else is odd with it is said once."""
        demand_lengths(self.up, "codec.up", layout, self.most)
        demand_lengths(self.down, "codec.down", layout, self.most)
        demand_matches(self.up, layout, "codec.up")
        demand_matches(self.down, layout, "codec.down")
        for notice in notices(self.up, self.down, layout, self.fed_back):
            log.warning("%s", notice)


def _ways(
    policy: RoundPolicy,
    clients: int,
    secure: SecAgg | None,
    codecs: tuple[Codec | str, Codec | str],
    feedback: Literal["auto", "on", "off"],
    down_base: Literal["auto", "last", "first"],
) -> _Ways:
    """What is known about codecs before there is a model; ConfigError."""
    most = most_counted(policy, clients)
    up = check_codec(codecs[0] if secure is None else fitting_codec(codecs[0], most), "up")
    down = check_codec(codecs[1], "down")
    fed_back, start = _feedback(up, policy, feedback), _down_base(policy, clients, down_base)
    require_uplink(up, fed_back)
    require_downlink(down, start)
    return _Ways(up, down, fed_back, start, most, secure)


def _job(
    strategy: Strategy,
    workload: Workload,
    base: Tensors,
    ways: _Ways,
    grid: Grid,
    settings: Settings,
    seed: int,
) -> Job:
    """What all clients are told; ConfigError where the codecs cannot carry this model."""
    layout, extras = layouts(strategy, workload, base)
    ways.demand_fit(layout)
    uses = (ways.fed_back, ways.start, ways.most, ways.secure, metric_names(workload))
    return Job(strategy, ways.up, ways.down, layout, extras, grid, settings, seed, *uses)


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


def _check_choices(policy: RoundPolicy, feedback: str, down_base: str, evaluate_on: str) -> None:
    one_of("feedback", feedback, "auto", "on", "off")
    one_of("down_base", down_base, "auto", "last", "first")
    one_of("evaluate_on", evaluate_on, "server", "clients")
    if policy.late == "carry" and evaluate_on == "clients":
        raise ConfigError(
            "rounds.late = 'carry' cannot be combined with rounds.evaluate_on = 'clients': late updates "
            "would arrive during evaluation; use evaluate_on = 'server' or late = 'drop'"
        )


def _simulation(workload: Workload, seed: int, out: Path | None) -> Federation:
    """The default federation, reached by name: the core imports no simulation."""
    factory = cast("Any", plugins.load("fedkit.federations", "simulation"))
    return cast(
        "Federation",
        factory(workload, seed=seed, directory=out / "clients" if out is not None else None),
    )
