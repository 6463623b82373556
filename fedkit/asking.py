"""The tasks of a round: what every client is told, and what each is told of its own."""

from __future__ import annotations

from fedkit.downlink import Release
from fedkit.federation import Plan
from fedkit.job import Job
from fedkit.messages import SCALE, Key, Kind, Settings, Task
from fedkit.tensors import State
from fedkit.usercode import called, returned_settings, returned_state


def make_tasks(
    job: Job, plan: Plan, kind: Kind, release: Release, state: State, scale: float, expires: float
) -> dict[Key, Task]:
    """One task for each client of the plan, all from one version of the model.

    RunFailed, naming the strategy, if its settings or context raise or cannot travel.
    """
    settings, context = _settings(job, state, plan.round), _context(job, state) if kind == "train" else {}
    if job.codec_up.ring:
        settings = {**settings, SCALE: scale}
    made = {}
    for client in plan.cohort:
        key, seed = Key(job.id, plan.round, kind, "", 0, client), plan.seeds[client]
        made[key] = Task(
            key, release.version, release.model, context, settings, seed, 1.0, expires, "", plan.deadline
        )
    return made


def _settings(job: Job, state: State, round: int) -> Settings:
    name = f"strategy {type(job.strategy).__name__}.settings"
    with called(name):
        own = job.strategy.settings(state, round)
    return {**job.settings, **returned_settings(own, name)}


def _context(job: Job, state: State) -> State:
    name = f"strategy {type(job.strategy).__name__}.context"
    with called(name):
        context = job.strategy.context(state)
    return returned_state(context, name)
