"""Runs that failed, were cut short before they began, or are continued as what they are not."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkit import RoundPolicy, RunFailed, Strategy, run, runfolder
from fedkit.aggregate import WeightedSum
from fedkit.config import Devices
from fedkit.errors import CheckpointError, ConfigError
from fedkit.events import RoundEnded, RunStarted
from fedkit.launch import run_scenario, saved_scenario
from fedkit.messages import ClientId, Metrics, Pass, Task, Trained
from fedkit.scenario import read
from fedkit.tensors import State, Tensors, add
from fedkit.trainer import Correct
from fedkit_simulations.engine import Simulation
from fedkit_strategies import FedAvg


@dataclass(frozen=True)
class Trainer:
    breaks: bool
    examples: int = 10

    def train(self, pass_: Pass, task: Task, correct: Correct | None) -> Trained:
        if self.breaks:
            raise KeyError("label")
        return Trained({n: np.full_like(a, 0.1) for n, a in pass_.start.items()}, 1, 10.0, {})

    def evaluate(self, model: Tensors) -> tuple[Metrics, int]:
        return {}, 10


@dataclass(frozen=True)
class Work:
    """Three clients; with `breaks`, all of them fail."""

    breaks: bool = False
    start: float = 0.0
    names: Sequence[ClientId] = ("ann", "bob", "cay")

    def init(self, seed: int) -> Tensors:
        return {"w": np.full(3, self.start, np.float32), "n": np.arange(2)}

    def clients(self) -> Sequence[ClientId]:
        return self.names

    def trainer(self, client: ClientId) -> Trainer:
        return Trainer(self.breaks)

    def evaluate(self, model: Tensors) -> Metrics:
        return {"w": float(model["w"][0])}


POLICY = RoundPolicy(deadline=1.0, max_failures=2)


def gone(work: Work, out: Path, rounds: int, policy: RoundPolicy = POLICY, **more: Any) -> None:
    """A run in which every device crashes in every round."""
    run(
        "fedavg",
        work,
        Simulation(work, devices=Devices(drop=1.0)),
        rounds=rounds,
        policy=policy,
        out=out,
        **more,
    )


def left(out: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary and rounds, without what depends on our clock."""
    summary = json.loads((out / "summary.json").read_text())
    rounds = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    for part in (summary, *rounds):
        del part["wall_seconds"]
    return summary, rounds


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


# Runs that have failed fail again


def test_a_run_whose_clients_all_failed_fails_again(tmp_path: Path) -> None:
    work, out = Work(breaks=True), tmp_path / "run"
    with pytest.raises(RunFailed, match="all 3 clients of the round failed") as first:
        run("fedavg", work, rounds=5, out=out)
    before = left(out)
    for rounds in (5, 2, 9):
        with pytest.raises(RunFailed) as again:
            run("fedavg", work, rounds=rounds, out=out, resume=True)
        assert str(again.value) == str(first.value)
        assert left(out) == before
    assert before[0]["status"] == "failed"
    assert [bool(record["fatal"]) for record in before[1]] == [True]


def test_too_many_failed_rounds_stay_too_many_unless_more_are_allowed(tmp_path: Path) -> None:
    work, out = Work(), tmp_path / "run"
    with pytest.raises(RunFailed, match="2 rounds in a row have failed") as first:
        gone(work, out, rounds=9)
    before = left(out)
    for rounds in (9, 2):
        with pytest.raises(RunFailed) as again:
            gone(work, out, rounds=rounds, resume=True)
        assert (str(again.value), left(out)) == (str(first.value), before)
    with pytest.raises(RunFailed, match="4 rounds in a row have failed"):
        gone(work, out, rounds=9, policy=replace(POLICY, max_failures=4), resume=True)
    assert left(out)[0]["rounds"] == 4


def test_a_run_without_a_good_round_may_be_given_more_rounds(tmp_path: Path) -> None:
    work, out = Work(), tmp_path / "run"
    patient = replace(POLICY, max_failures=9)
    for rounds in (1, 1, 2):
        with pytest.raises(RunFailed, match=f"none of {rounds} rounds succeeded"):
            gone(work, out, rounds=rounds, policy=patient, resume=out.exists())
        assert left(out)[0]["status"] == "failed"


@pytest.mark.parametrize("breaks", [True, False], ids=["fatal", "failures"])
def test_killed_between_the_checkpoint_and_the_stop_it_stops_as_if_it_were_not(
    tmp_path: Path, breaks: bool
) -> None:
    class Dies:
        def round_ended(self, event: RoundEnded) -> None:
            if event.record.round == (0 if breaks else 1):
                raise KeyboardInterrupt

    def go(out: Path, **more: Any) -> None:
        if breaks:
            run("fedavg", Work(breaks=True), rounds=5, policy=POLICY, out=out, **more)
        else:
            gone(Work(), out, rounds=5, **more)

    with pytest.raises(RunFailed) as whole:
        go(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "cut", observers=[Dies()])
    with pytest.raises(RunFailed) as rest:
        go(tmp_path / "cut", resume=True)
    assert str(rest.value) == str(whole.value)
    assert left(tmp_path / "cut") == left(tmp_path / "whole")


# Folders that are not what they should be


def test_a_folder_that_lost_its_checkpoint_is_refused_and_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run("fedavg", Work(), rounds=3, out=out)
    (out / "checkpoint.safetensors").unlink()
    before = contents(out)
    with pytest.raises(
        CheckpointError, match=r"checkpoint\.safetensors is missing, but rounds were recorded"
    ):
        run("fedavg", Work(), rounds=5, out=out, resume=True)
    assert contents(out) == before


def test_rounds_out_of_order_are_damage(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run("fedavg", Work(), rounds=3, out=out)
    lines = (out / "rounds.jsonl").read_text().splitlines(keepends=True)
    (out / "rounds.jsonl").write_text("".join([lines[0], lines[2], lines[1]]))
    before = contents(out)
    with pytest.raises(CheckpointError, match=r"rounds\.jsonl is damaged: line 2 is of round 2"):
        run("fedavg", Work(), rounds=5, out=out, resume=True)
    assert contents(out) == before


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("weight", "many", "weight is not a number"),
        ("ok", 1, "ok is neither true nor false"),
        ("fates", [], "fates is not an object"),
        ("fates", {"ann": {"outcome": "died", "why": ""}}, "outcome in fates is 'died'"),
        ("metrics", {"w": "x"}, "'w' of metrics is not a number"),
        ("bytes_up", 1.5, "bytes_up is not an integer"),
        ("extra", 1, "fields are"),
    ],
)
def test_a_round_of_the_wrong_shape_is_damage_that_names_the_field(
    tmp_path: Path, field: str, value: object, text: str
) -> None:
    out = tmp_path / "run"
    run("fedavg", Work(), rounds=1, out=out)
    record = json.loads((out / "rounds.jsonl").read_text())
    (out / "rounds.jsonl").write_text(json.dumps({**record, field: value}) + "\n")
    with pytest.raises(CheckpointError) as caught:
        run("fedavg", Work(), rounds=2, out=out, resume=True)
    assert "rounds.jsonl is damaged" in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ([1], "is not an object"),
        ({"cohort": "ann"}, "cohort is not a list"),
        ({"cohort": ["ann", "zoe"]}, "client 'zoe' is not registered"),
        ({"cohort": ["bob", "ann"]}, "cohort is not sorted"),
        ({"want": 99}, "want is not an integer in [0, 3]"),
        ({"deadline": None}, "deadline is not a number"),
        ({"carried": [["job", 0, "train", "", 0, "zoe", 1.0]]}, "client 'zoe' is not registered"),
        ({"carried": [[1]]}, "carried is not a list of 7"),
        ({"more": 1}, "fields are"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_plan_of_the_wrong_shape_is_damage_that_names_the_field(
    tmp_path: Path, change: Any, text: str
) -> None:
    class Dies:
        def round_started(self, event: object) -> None:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run("fedavg", Work(), rounds=1, out=out, observers=[Dies()])
    plan = json.loads((out / "plan.json").read_text())
    (out / "plan.json").write_text(json.dumps({**plan, **change} if isinstance(change, dict) else change))
    with pytest.raises(CheckpointError) as caught:
        run("fedavg", Work(), rounds=1, out=out, resume=True)
    assert "plan.json is damaged: " in str(caught.value)
    assert text in str(caught.value)


# Folders of a run that is killed before its first checkpoint


class PowerCut(BaseException):
    """The process is gone."""


SCENARIO = """
workload = "FILE:make"
[rounds]
count = 2
"""
OWN = """
import numpy as np
from fedkit_clients import NumpyWorkload, Softmax

def make(*, seed):
    data = {name: (np.eye(4, dtype=np.float32), np.arange(4) % 2) for name in "abc"}
    return NumpyWorkload(Softmax(4, 2), data, test=data["a"])
"""


def test_a_run_killed_before_its_first_checkpoint_can_be_taken_up_at_every_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "s.toml").write_text(SCENARIO.replace("FILE", str(tmp_path / "own.py")))
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    scenario = read(tmp_path / "s.toml")
    whole = run_scenario(scenario, out=tmp_path / "whole").summary
    write, starts = runfolder.replace_file, []
    for allowed in range(20):
        out, done = tmp_path / f"run{allowed}", 0

        def dies(path: Path, data: bytes, allowed: int = allowed) -> None:
            nonlocal done
            done += 1
            if done > allowed:
                path.with_name(path.name + ".tmp").write_bytes(data[:9])
                raise PowerCut
            write(path, data)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runfolder, "replace_file", dies)
            with pytest.raises(PowerCut):
                run_scenario(scenario, out=out)
        starts.append((out / "scenario.toml").exists())
        if (out / "scenario.toml").exists():
            again = run_scenario(saved_scenario(out), out=out, resume=True)
        else:
            again = run_scenario(scenario, out=out)
        assert again.summary["model_sha256"] == whole["model_sha256"], f"killed at write {allowed}"
        if (out / "rounds.jsonl").exists() and done > 8:
            break
    assert starts[:2] == [False, True]


def test_a_folder_with_something_else_in_it_is_no_run_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("")
    (tmp_path / "thesis.tmp").write_text("x")
    with pytest.raises(ConfigError, match="is not empty"):
        run("fedavg", Work(), rounds=1, out=tmp_path)


# What must be as it was


class Plain(Strategy):
    """No dataclass."""

    def __init__(self, lr: float) -> None:
        self.lr = lr

    def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
        return add(model, total.mean(), scale=self.lr), state


@dataclass(frozen=True)
class Table(FedAvg):
    table: Any = None


def long(at: int) -> Any:
    """An array whose repr hides the difference."""
    values = np.zeros(3000)
    values[at] = 1
    return values


class Fingerprinted(Work):
    data = "one"

    def fingerprint(self) -> str:
        return self.data


class Otherwise(Fingerprinted):
    data = "two"


@pytest.mark.parametrize(
    ("was", "now", "named"),
    [
        ({}, {"workload": Work(names=("ann", "bob", "dan"))}, "clients"),
        ({}, {"workload": Work(start=1.0)}, "the initial model"),
        ({}, {"policy": RoundPolicy(cohort=2)}, "rounds.cohort was 'None' and is '2'"),
        ({}, {"policy": RoundPolicy(deadline=9.0)}, "rounds.deadline"),
        ({}, {"seed": 1}, "seed was '0' and is '1'"),
        ({}, {"codec_up": "int8"}, "codec.up"),
        ({"strategy": Plain(1.0)}, {"strategy": Plain(9.0)}, "strategy"),
        ({"strategy": Table(table=long(1500))}, {"strategy": Table(table=long(1501))}, "strategy"),
        (
            {"workload": Fingerprinted()},
            {"workload": Otherwise()},
            "the workload's fingerprint was 'one' and is",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_run_that_is_continued_must_be_as_it_was_and_what_differs_is_named(
    tmp_path: Path, was: dict[str, Any], now: dict[str, Any], named: str
) -> None:
    first: dict[str, Any] = {
        "strategy": "fedavg",
        "workload": Work(),
        "rounds": 1,
        "out": tmp_path / "run",
        **was,
    }
    run(**first)
    before = contents(tmp_path / "run")
    with pytest.raises(CheckpointError) as caught:
        run(**{**first, "rounds": 2, **now, "resume": True})
    assert "holds another run" in str(caught.value)
    assert f": {named}" in str(caught.value)
    assert contents(tmp_path / "run") == before
    assert run(**{**first, "rounds": 2, "resume": True}).summary["rounds"] == 2


UNNAMED: list[Any] = [lambda: 1, object(), [{"f": object()}], np.array([object()]), frozenset([object()])]


@pytest.mark.parametrize("strategy", [*map(Plain, UNNAMED), *(Table(table=value) for value in UNNAMED)])
def test_parameters_without_a_name_of_their_own_are_refused_before_round_0(
    tmp_path: Path, strategy: Strategy
) -> None:
    with pytest.raises(ConfigError, match=r"\.(lr|table) = .* at 0x.*give its class a __repr__"):
        run(strategy, Work(), rounds=1, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Summaries and disks


def test_the_summary_says_running_while_it_runs(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    class Looks:
        def run_started(self, event: RunStarted) -> None:
            summary = json.loads((tmp_path / "run/summary.json").read_text())
            seen.append((summary["status"], summary["rounds"]))

    for rounds in (2, 3):
        run("fedavg", Work(), rounds=rounds, out=tmp_path / "run", resume=rounds == 3, observers=[Looks()])
        assert left(tmp_path / "run")[0]["status"] == "done"
    assert seen == [("running", 0), ("running", 2)]


def test_a_full_disk_is_the_error_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Fills:
        def round_started(self, event: object) -> None:
            monkeypatch.setattr(os, "fsync", full)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunFailed, match=r"best\.safetensors cannot be written \(No space left on device\)"):
        run("fedavg", Work(), rounds=2, out=tmp_path / "run", observers=[Fills()])
    assert "the run folder could not be completed" in caplog.text
    monkeypatch.undo()
    whole = run("fedavg", Work(), rounds=2)
    again = run("fedavg", Work(), rounds=2, out=tmp_path / "run", resume=True)
    assert again.summary["model_sha256"] == whole.summary["model_sha256"]


def test_what_cannot_be_written_afterwards_does_not_hide_the_first_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails:
        def round_started(self, event: object) -> None:
            def full(handle: int) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            monkeypatch.setattr(os, "fsync", full)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("fedavg", Work(), rounds=2, out=tmp_path / "run", observers=[Fails()])


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be a run folder"):
        run("fedavg", Work(), rounds=1, out=tmp_path / "file" / "run")


def test_where_clients_come_and_go_a_plan_may_name_one_that_is_gone(tmp_path: Path) -> None:
    """Its place may be another's by the time the round is taken up: it is asked, and does not answer."""

    class Dies:
        def round_started(self, event: object) -> None:
            raise KeyboardInterrupt

    class Town(Work):
        enrolled_by = "of a CA"

    out, work = tmp_path / "run", Town()
    with pytest.raises(KeyboardInterrupt):
        run("fedavg", work, rounds=1, out=out, observers=[Dies()])
    plan = json.loads((out / "plan.json").read_text())
    assert plan["cohort"][-1] != "zoe"
    (out / "plan.json").write_text(json.dumps({**plan, "cohort": [*plan["cohort"][:-1], "zoe"]}))
    with pytest.raises(Exception, match="zoe") as caught:
        run("fedavg", work, rounds=1, out=out, resume=True)
    assert not isinstance(caught.value, CheckpointError), "the plan is taken; a simulation has no such client"
