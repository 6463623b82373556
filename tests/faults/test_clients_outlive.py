"""The server dies in the middle of a session and is started again; its clients were there all the time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkit import Result, RoundPolicy, run
from fedkit.federation import Request
from fedkit.history import RoundRecord
from fedkit.job import Job
from fedkit.participant import Participant
from fedkit.secagg.messages import FromServer, Stage
from fedkit.secagg.parameters import Policy
from fedkit.secagg.settings import SecAgg
from fedkit_clients import NumpyWorkload, Softmax
from fedkit_simulations.engine import Simulation

SECRET = SecAgg(Policy(dropout=0.0), width=64, verify=True)
SIGNED = (Stage.agree, Stage.unmask)


class Deployed(Simulation):
    """Its clients do not end with the server, which dies after it has asked for a stage of round 1."""

    die: tuple[str, str] | None = None
    alive: Participant | None = None

    def open(self, job: Job) -> None:
        super().open(job)
        self._participant = self.alive = self.alive or self._participant

    def send(self, requests: Iterable[Request]) -> None:
        fresh = list(requests)
        super().send(fresh)
        keys = [one.key for one in fresh if isinstance(one, FromServer) and one.key.round == 1]
        if any((key.kind, key.stage) == self.die for key in keys):
            self.die = None
            for _ in self.receive(self.now() + 100):
                pass  # they answer to nobody
            raise KeyboardInterrupt


def workload() -> NumpyWorkload:
    draws = np.random.default_rng(0)
    x, y = draws.normal(size=(5, 12, 4)).astype(np.float32), draws.integers(0, 3, (5, 12))
    return NumpyWorkload(Softmax(4, 3), {f"c{i}": (x[i], y[i]) for i in range(5)})


def go(federation: Simulation, out: Path, **more: Any) -> Result:
    return run(
        "fedavg", federation._workload, federation, rounds=4, secagg=SECRET, evaluate_on="clients",
        policy=RoundPolicy(max_failures=2, deadline=100.0), out=out, **more,
    )  # fmt: skip


def killed(kind: str, stage: Stage, out: Path) -> list[RoundRecord]:
    federation = Deployed(workload())
    federation.die = (kind, stage.value)
    with pytest.raises(KeyboardInterrupt):
        go(federation, out)
    return go(federation, out, resume=True).history.rounds


@pytest.mark.parametrize("stage", list(Stage))
def test_the_run_goes_on_whatever_stage_of_training_the_server_died_in(stage: Stage, tmp_path: Path) -> None:
    """Before anybody signed the round is made in another session; afterwards it is lost, and only it."""
    rounds = killed("train", stage, tmp_path / "run")
    assert [record.ok for record in rounds] == [True, stage not in SIGNED, True, True]
    assert not any(record.fatal for record in rounds)
    if stage in SIGNED:
        assert all("second sum" in fate.why for fate in rounds[1].fates.values())
        assert rounds[1].secagg_evaluate is None  # the model has not moved
    assert [bool(record.metrics) for record in rounds] == [record.ok for record in rounds]


def test_a_round_whose_clients_were_measured_meanwhile_is_lost_and_only_it(tmp_path: Path) -> None:
    """They have signed its updates: the sum that the server had is gone with it."""
    rounds = killed("evaluate", Stage.mask, tmp_path / "run")
    assert [record.ok for record in rounds] == [False, True, True, True]
    assert all("second sum" in fate.why for fate in rounds[0].fates.values())
    assert [bool(record.metrics) for record in rounds] == [False, True, True, True]


def test_numbers_of_sessions_go_on_where_they_were(tmp_path: Path) -> None:
    """Else clients would take the new sessions for the old ones."""
    federation = Deployed(workload())
    federation.die = ("train", "mask")
    asked: set[tuple[int, int]] = set()
    with pytest.raises(KeyboardInterrupt):
        go(federation, tmp_path / "run")
    send = federation.send

    def noting(requests: Iterable[Request]) -> None:
        fresh = list(requests)
        asked.update((one.key.round, one.key.attempt) for one in fresh if one.key.kind == "train")
        send(fresh)

    federation.send = noting  # type: ignore[method-assign]
    go(federation, tmp_path / "run", resume=True)
    assert {(r, a) for r, a in asked if a} == {(1, 1)}
