"""A secure run that is killed in the middle of a session ends bit for bit as one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkit import RoundPolicy, run
from fedkit.config import Devices, Links
from fedkit.secagg.messages import Stage
from fedkit.secagg.parameters import Policy
from fedkit.secagg.server import SecAggServer
from fedkit.secagg.settings import SecAgg
from fedkit_clients import NumpyWorkload, Softmax
from fedkit_simulations.engine import Simulation
from tests.drifting import Drifting

ROUNDS = 4


def go(out: Path | str, resume: bool = False, secagg: SecAgg | str = "off", **more: Any) -> None:
    """A run with crashes at all stages, slow links, memory and personal tensors of clients."""
    draws = np.random.default_rng(0)
    x = draws.normal(size=(12, 12, 6)).astype(np.float32)
    y = (x @ draws.normal(size=(6, 3))).argmax(axis=2).astype(np.int64)
    data = {f"c{i:02d}": (x[i], y[i]) for i in range(12)}
    work = NumpyWorkload(Softmax(6, 3), data, test=(x.reshape(-1, 6), y.reshape(-1)))
    federation = Simulation(
        work,
        links=Links(profile="4g", spread=0.5),
        devices=Devices(spread=0.5, drop=0.15),
        directory=Path(out, "clients"),
    )
    policy = RoundPolicy(cohort=6, over_select=1.4, quorum=3, max_failures=99)
    train = {"epochs": 2, "batch": 4, "lr": 0.1}
    run(
        Drifting(), work, federation, rounds=ROUNDS, policy=policy, train=train, out=out, resume=resume,
        secagg=secagg, evaluate_on="clients", **more,
    )  # fmt: skip


SECRET = SecAgg(Policy(dropout=0.3), width=64, verify=True)


def left(out: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What a run left, without what depends on our clock."""
    summary = json.loads((out / "summary.json").read_text())
    rounds = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    for part in (summary, *rounds):
        del part["wall_seconds"]
    sums = [record[name] for record in rounds for name in ("secagg", "secagg_evaluate")]
    for secure in filter(None, (summary["initial_secagg"], *sums)):
        del secure["client_seconds"], secure["server_seconds"]
    return summary, rounds


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happened to."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    go(out, secagg=SECRET)
    return out


def test_what_is_killed_is_worth_killing(whole: Path) -> None:
    _, rounds = left(whole)
    assert len({stage for record in rounds for stage in record["secagg"]["lost"]}) >= 2
    assert [record["ok"] for record in rounds[1:3]] == [True, True]
    assert {record["secagg"]["verified"] for record in rounds if record["ok"]} == {True}


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize("stage", list(Stage))
def test_a_run_that_dies_at_any_stage_continues_alike(
    stage: Stage, kind: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, advance = tmp_path / "cut", SecAggServer.advance

    def dies(self: SecAggServer) -> None:
        if (self.header.round, self.header.kind, self.stage) == (2, kind, stage):
            raise KeyboardInterrupt
        advance(self)

    monkeypatch.setattr(SecAggServer, "advance", dies)
    with pytest.raises(KeyboardInterrupt):
        go(out, secagg=SECRET)
    monkeypatch.undo()
    go(out, resume=True, secagg=SECRET)
    assert left(out) == left(whole)


_CHILD = f"""
import importlib.util, os, signal, sys
from fedkit.secagg.server import SecAggServer
spec = importlib.util.spec_from_file_location({__name__!r}, {str(Path(__file__))!r})
module = importlib.util.module_from_spec(spec)
sys.modules[{__name__!r}] = module
spec.loader.exec_module(module)
advance = SecAggServer.advance
def dies(self):
    if (self.header.round, self.stage) == (1, "unmask"):
        os.kill(os.getpid(), signal.SIGKILL)
    advance(self)
SecAggServer.advance = dies
module.go(sys.argv[1], secagg=module.SECRET)
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a matter of POSIX")
def test_a_run_under_sigkill_in_the_middle_of_a_session_continues_alike(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    done = subprocess.run([sys.executable, "-c", _CHILD, str(out)], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    go(out, resume=True, secagg=SECRET)
    assert left(out) == left(whole)
