"""The durable side of a run: the plan before the tasks, and which folders can be taken up again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkit import RoundPolicy, run
from fedkit.aggregate import Grid
from fedkit.codecs.none import Plain
from fedkit.errors import CheckpointError, ConfigError
from fedkit.federation import Plan, Request
from fedkit.job import Job
from fedkit.journal import Journal
from fedkit.planning import plan_to_json, train_seed
from fedkit.runfolder import RunFolder
from fedkit.tensors import Layout, digest
from fedkit_clients import NumpyWorkload, Softmax
from fedkit_simulations.engine import Simulation
from fedkit_strategies import FedAvg


def workload(clients: int = 6) -> NumpyWorkload:
    draws = np.random.default_rng(0)
    x = draws.normal(size=(clients, 10, 3)).astype(np.float32)
    y = (x[..., 0] > 0).astype(np.int64)
    data = {f"c{i}": (x[i], y[i]) for i in range(clients)}
    return NumpyWorkload(Softmax(3, 2), data, test=(x[0], y[0]))


def job(**changes: Any) -> Job:
    fields = {"settings": {}, "model_seed": 0, **changes}
    return Job(FedAvg(), Plain(), Plain(), Layout((), (), ()), Layout((), (), ()), Grid(), **fields)


EVERYBODY = ("ann", "bob", "cay", "dan")


def plan(round: int, cohort: tuple[str, ...]) -> Plan:
    return Plan(round, 1.5, 9.5, cohort, 1, 1, {client: train_seed(0, round, client) for client in cohort})


@pytest.fixture
def folder(tmp_path: Path) -> Iterable[RunFolder]:
    opened = RunFolder(tmp_path / "run", resume=False)
    yield opened
    opened.close()


def test_without_a_folder_nothing_is_written() -> None:
    journal = Journal(job(), 0, None)
    fresh = plan(3, ("ann",))
    journal.describe(workload(), "x = 1")
    journal.model("m", {})
    journal.summary({})
    assert journal.plan(fresh, ()) is fresh
    assert journal.resume() is None


def test_the_plan_of_a_round_is_the_first_that_was_written(folder: RunFolder) -> None:
    journal = Journal(job(), 0, folder)
    first = plan(3, ("ann", "bob"))
    assert journal.plan(first, EVERYBODY) == first
    assert journal.plan(plan(3, ("cay",)), EVERYBODY) == first  # what a restart would draw does not count
    other = plan(4, ("dan",))
    assert journal.plan(other, EVERYBODY) == other
    assert json.loads((folder.path / "plan.json").read_text())["round"] == 4


def test_the_plan_of_another_job_is_not_used(folder: RunFolder) -> None:
    Journal(job(), 0, folder).plan(plan(3, ("ann",)), EVERYBODY)
    fresh = plan(3, ("bob",))
    assert Journal(job(model_seed=1), 0, folder).plan(fresh, EVERYBODY) == fresh


def test_a_damaged_plan_is_named(folder: RunFolder) -> None:
    journal = Journal(job(), 0, folder)
    data = plan_to_json(plan(3, ("ann",)), job().id)
    del data["cohort"]
    folder.write_json("plan.json", data)
    with pytest.raises(CheckpointError, match=r"plan\.json is damaged"):
        journal.plan(plan(3, ("ann",)), EVERYBODY)


def test_a_run_is_described(folder: RunFolder) -> None:
    Journal(job(), 0, folder).describe(workload(2), 'workload = "x"\n')
    assert (folder.path / "scenario.toml").read_text() == 'workload = "x"\n'
    assert json.loads((folder.path / "environment.json").read_text())["numpy"] == np.__version__
    population = json.loads((folder.path / "population.json").read_text())
    assert population["classes"] == ["0", "1"]
    assert {client: sum(row) for client, row in population["clients"].items()} == {"c0": 10, "c1": 10}


class Dies(Simulation):
    """Loses power while it sends the tasks of round 2."""

    def send(self, requests: Iterable[Request]) -> None:
        tasks = list(requests)
        if tasks[0].key.round == 2:
            raise RuntimeError("power cut")
        super().send(tasks)


def test_the_plan_is_on_disk_before_a_task_is_sent_and_a_restart_keeps_it(tmp_path: Path) -> None:
    work, out = workload(), tmp_path / "run"
    policy = RoundPolicy(cohort=2)
    with pytest.raises(RuntimeError, match="power cut"):
        run("fedavg", work, Dies(work), rounds=4, policy=policy, out=out)
    written = json.loads((out / "plan.json").read_text())
    assert written["round"] == 2
    assert json.loads((out / "summary.json").read_text())["status"] == "failed"

    def with_cohort(*cohort: str) -> Mapping[str, Any]:
        (out / "plan.json").write_text(json.dumps({**written, "cohort": list(cohort)}))
        result = run("fedavg", work, Simulation(work), rounds=4, policy=policy, out=out, resume=True)
        assert sorted(result.history.rounds[2].fates) == list(cohort)
        return result.summary

    other = [name for name in work.clients() if name not in written["cohort"]][:2]
    assert with_cohort(*other)["rounds"] == 4  # the plan that was written decides, not the seed


def test_a_restart_before_the_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    work, out = workload(), tmp_path / "run"
    RunFolder(out, resume=False).close()
    resumed = run("fedavg", work, rounds=2, out=out, resume=True)
    assert resumed.summary["model_sha256"] == run("fedavg", work, rounds=2).summary["model_sha256"]


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"train": {"lr": 0.2}}, {"strategy": FedAvg(lr=0.5)}, {"grid": Grid(64, 16)}],
    ids=["seed", "train", "strategy", "grid"],
)
def test_the_folder_of_another_run_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    work, out = workload(), tmp_path / "run"
    run("fedavg", work, rounds=1, out=out)
    given: dict[str, Any] = {"strategy": "fedavg", "rounds": 2, **changes}
    (named,) = changes
    with pytest.raises(
        CheckpointError, match=rf"{out} holds another run, .*: {named} was .* must be as when"
    ):
        run(workload=work, out=out, resume=True, **given)


def test_a_model_of_another_shape_is_another_run(tmp_path: Path) -> None:
    run("fedavg", workload(), rounds=1, out=tmp_path / "run")
    other = workload()
    wider = NumpyWorkload(Softmax(3, 5), other.data)
    with pytest.raises(CheckpointError, match="holds another run"):
        run("fedavg", wider, rounds=2, out=tmp_path / "run", resume=True)


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(ConfigError, match="is not empty"):
        run("fedavg", workload(), rounds=1, out=tmp_path)


def test_a_finished_run_goes_on_to_more_rounds_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    work, policy = workload(), RoundPolicy(cohort=3)
    whole = run("fedavg", work, rounds=5, policy=policy)
    run("fedavg", work, rounds=2, policy=policy, out=tmp_path / "run")
    rest = run("fedavg", work, rounds=5, policy=policy, out=tmp_path / "run", resume=True)
    assert digest(rest.model) == digest(whole.model)
    assert [r.fates for r in rest.history.rounds] == [r.fates for r in whole.history.rounds]
    again = run("fedavg", work, rounds=5, policy=policy, out=tmp_path / "run", resume=True)
    assert again.summary["model_sha256"] == rest.summary["model_sha256"]
    assert again.summary["rounds"] == 5


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "rounds.jsonl"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    work, out = workload(), tmp_path / "run"
    run("fedavg", work, rounds=2, out=out)
    data = (out / name).read_bytes()
    (out / name).write_bytes(data[: len(data) // 3])
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        run("fedavg", work, rounds=3, out=out, resume=True)


def test_no_session_has_the_number_of_another(folder: RunFolder) -> None:
    first = Journal(job(), 0, folder)
    assert [first.session("train", 3), first.session("train", 3), first.session("evaluate", 4)] == [0, 1, 0]
    after = Journal(job(), 0, folder)  # a crash
    assert [after.session("train", 3), after.session("evaluate", 4), after.session("train", 4)] == [2, 1, 0]
    assert Journal(job(model_seed=1), 0, folder).session("train", 4) == 0
    alone = Journal(job(), 0, None)
    assert [alone.session("train", 3), alone.session("train", 3)] == [0, 1]
    odd: list[object] = [{"train": 3}, [], {"train": ["x", "y"]}]
    for damaged in odd:
        folder.write_json("sessions.json", damaged)
        with pytest.raises(CheckpointError, match=r"sessions\.json is damaged"):
            Journal(job(), 0, folder).session("train", 4)
