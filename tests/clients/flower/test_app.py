"""The app in clients/fedkit-flower on Flower's own programs: one SuperLink, three SuperNodes, `flwr run`."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fedkit.launch import run_scenario
from fedkit.scenario import read
from fedkit_clients.flower.loopback import app_folder
from fedkit_clients.flower.programs import CONNECTION, Programs, program

pytest.importorskip("flwr")
pytestmark = pytest.mark.slow
WORK = '''
"""Points of two classes, three clients."""
import numpy as np
from fedkit_clients.numpy_trainer import NumpyWorkload, Softmax


def make(*, seed):
    """The workload."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    return NumpyWorkload(Softmax(4, 2), {f"c{i}": (x[i::3], y[i::3]) for i in range(3)}, test=(x, y))
'''
PLAIN = ["rounds.count=3", "rounds.deadline=20000", "train.epochs=2", "train.batch=5", "train.lr=0.2"]
SECURE = ["secagg.mode=honest_server", "secagg.dropout=0", "secagg.n_min=3", "secagg.width=64"]
RUNS = {"plain": PLAIN, "eden": [*PLAIN, "codec.up=eden:bits=1"], "secure": [*PLAIN, *SECURE]}
PATIENCE = 900.0
"""Seconds after which a run that is not over counts as stuck."""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scenario with a workload in a file of code."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "work.py").write_text(WORK)
    (folder / "toy.toml").write_text('workload = "work.py:make"\n')
    return folder / "toy.toml"


@pytest.fixture(scope="module")
def fleet(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """One fleet for all tests: its programs take long to start."""
    programs = Programs(tmp_path_factory.mktemp("fleet"))
    try:
        programs.superlink()
        for number in range(3):
            config: dict[str, str | int] = {"scenario": str(toy), "partition-id": number, "num-partitions": 3}
            programs.supernode(f"node-{number}", config)
        yield programs
    finally:
        programs.stop()


@pytest.fixture(scope="module")
def runs(fleet: Programs, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The folders of all runs: they run at the same time."""
    fleet.run(app_folder(), {"scenario": "no-such-scenario"})
    folders = {name: tmp_path_factory.mktemp(name) / "run" for name in RUNS}
    for name, folder in folders.items():
        fleet.run(app_folder(), {"scenario": str(toy), "set": " ".join(RUNS[name]), "out": str(folder)})
    return folders


def done(folder: Path) -> bool:
    """Whether the run in this folder has ended."""
    path = folder / "summary.json"
    return path.is_file() and json.loads(path.read_text())["status"] != "running"


def over(fleet: Programs, folders: Iterable[Path]) -> None:
    """Wait until these runs are over."""
    end = time.monotonic() + PATIENCE
    while not all(map(done, folders)):
        if time.monotonic() > end:
            raise AssertionError((fleet.folder / "node-0.log").read_text()[-5000:])
        time.sleep(0.5)


def simulated(toy: Path, settings: list[str]) -> Mapping[str, Any]:
    return run_scenario(read(toy, settings)).summary


@pytest.mark.parametrize("name", RUNS)
def test_a_run_on_flower_gives_the_model_of_the_simulation(
    fleet: Programs, runs: Mapping[str, Path], toy: Path, name: str
) -> None:
    over(fleet, [runs[name]])
    found = json.loads((runs[name] / "summary.json").read_text())
    wanted = simulated(toy, RUNS[name])
    assert found["status"] == wanted["status"]
    assert found["clients_counted"] == wanted["clients_counted"] == 9
    assert found["model_sha256"] == wanted["model_sha256"]
    assert found["metrics"] == wanted["metrics"]
    assert (found["secagg"] is not None) == (name == "secure")


def test_flower_tells_the_failed_run_from_the_others(fleet: Programs, runs: Mapping[str, Path]) -> None:
    over(fleet, runs.values())
    command = [program("flwr"), "list", CONNECTION, "--format", "json"]
    listed = subprocess.run(command, env=fleet.environment(), capture_output=True, text=True, check=True)
    states = Counter(run["status"] for run in json.loads(listed.stdout)["runs"])
    assert states["finished:failed"] == 1
    assert set(states) <= {"finished:failed", "finished:completed", "running"}
