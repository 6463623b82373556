"""The tasks of a round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from fedkit import Grid, RunFailed, Strategy
from fedkit.asking import make_tasks
from fedkit.codecs.none import Plain
from fedkit.downlink import Release
from fedkit.federation import Plan
from fedkit.job import Job
from fedkit.messages import Kind, Settings
from fedkit.tensors import Layout, State, flat
from fedkit_strategies import FedAvg

MODEL = flat({"w": np.zeros(3, np.float32)})
PLAN = Plan(4, 10.0, 20.0, ("ann", "bob"), 2, 1, {"ann": 7, "bob": 8})


@dataclass(frozen=True)
class Tells(FedAvg):
    told: Any = 0.5

    def settings(self, state: State, round: int) -> Settings:
        return {"lr": self.told, "round": round}

    def context(self, state: State) -> Mapping[str, Any]:
        return {"v": state["v"]}


def tasks(strategy: Strategy, kind: Kind = "train", state: Any = None) -> dict[str, Any]:
    job = Job(
        strategy, Plain(), Plain(), MODEL.layout, Layout((), (), ()), Grid(), {"lr": 0.1, "batch": 4}, 0
    )
    state = state if state is not None else {"v": MODEL}
    made = make_tasks(job, PLAN, kind, Release(3, MODEL), state, 0.0, 50.0)
    assert all(task.key == key and key.job == job.id for key, task in made.items())
    return {key.client: task for key, task in made.items()}


def test_every_client_is_told_the_same_but_its_seed() -> None:
    made = tasks(Tells())
    assert list(made) == ["ann", "bob"]
    assert [task.seed for task in made.values()] == [7, 8]
    for task in made.values():
        assert task.settings == {"lr": 0.5, "batch": 4, "round": 4}  # the strategy's override [train]
        assert (task.version, task.model, task.work) == (3, MODEL, 1.0)
        assert (task.deadline, task.expires, task.key.round) == (20.0, 50.0, 4)
        assert not task.context["v"]["w"].flags.writeable


def test_an_evaluation_carries_no_context() -> None:
    assert tasks(Tells(), "evaluate", state={})["ann"].context == {}


def test_settings_and_contexts_that_cannot_travel_are_named() -> None:
    with pytest.raises(RunFailed, match=r"strategy Tells\.settings: setting 'lr' is \[1\]"):
        tasks(Tells(told=[1]))
    with pytest.raises(RunFailed, match=r"strategy Tells\.context raised KeyError: 'v' \(.*py:\d+\)"):
        tasks(Tells(), state={})
    with pytest.raises(RunFailed, match=r"strategy Tells\.context returned a state .*group 'v' is a list"):
        tasks(Tells(), state={"v": [1]})
