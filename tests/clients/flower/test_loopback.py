"""`fedkit run ... federation.kind=flower` as a user starts it: a node is killed, the run is interrupted."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from fedkit.config import Scenario
from fedkit.errors import ConfigError, RunFailed
from fedkit.job import Job
from fedkit.trainer import Workload
from fedkit_clients.flower import loopback
from fedkit_clients.flower.federation import FlowerFederation
from fedkit_clients.flower.loopback import Loopback
from fedkit_clients.flower.programs import Programs

PATIENCE = 600.0
"""Seconds after which something that does not happen counts as never happening."""
WORK = '''
"""Points of two classes, three clients, of which one hangs in its second round."""
import pathlib, time
import numpy as np
from fedkit_clients.numpy_trainer import NumpyWorkload, Softmax


class Hangs:
    def __init__(self, inner, flag):
        self.inner, self.flag, self.examples = inner, flag, inner.examples

    def train(self, pass_, task, correct):
        if task.key.round == 1:
            pathlib.Path(self.flag).touch()
            time.sleep(1000)
        return self.inner.train(pass_, task, correct)

    def evaluate(self, model):
        return self.inner.evaluate(model)


class Work(NumpyWorkload):
    flag = ""

    def trainer(self, client):
        made = super().trainer(client)
        return Hangs(made, self.flag) if client == "c2" and self.flag else made


def make(*, seed, flag: str = ""):
    """The workload."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    work = Work(Softmax(4, 2), {f"c{i}": (x[i::3], y[i::3]) for i in range(3)}, test=(x, y))
    work.flag = flag
    return work
'''


def wait_for(what: Callable[[], Any], running: subprocess.Popen[str]) -> Any:
    """What it returns once it is true."""
    end = time.monotonic() + PATIENCE
    while not (found := what()):
        assert running.poll() is None, running.communicate()[0]
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.2)
    return found


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


class Started:
    """`fedkit run` with a fleet, in a folder of its own."""

    def __init__(self, folder: Path, *settings: str) -> None:
        (folder / "work.py").write_text(WORK)
        (folder / "toy.toml").write_text('workload = "work.py:make"\n[federation]\nkind = "flower"\n')
        self.folder = folder
        begin = "from fedkit.cli import main; main()"
        command = [sys.executable, "-c", begin, "run", "toy.toml", "--out", "run", *settings]
        self.running = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def pids(self) -> dict[str, int]:
        """The processes of the programs, by name."""
        files = self.folder.glob("fedkit-flower-*/*.pid")
        return {file.stem: int(text) for file in files if (text := file.read_text())}

    def ends_without_a_trace(self, pids: dict[str, int]) -> str:
        """Wait until all is over; what the command has written."""
        text, _ = self.running.communicate(timeout=PATIENCE)
        end = time.monotonic() + PATIENCE
        while not all(map(gone, pids.values())):
            assert time.monotonic() < end, "programs are left"
            time.sleep(0.1)
        assert not list(self.folder.glob("fedkit-flower-*"))
        return text


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts a run, and ends it whatever becomes of the test."""
    made: list[Started] = []

    def make(*settings: str) -> Started:
        pytest.importorskip("flwr")
        made.append(Started(tmp_path, *settings))
        return made[0]

    yield make
    for one in made:
        one.running.kill()
        one.running.wait()
        if one.running.stdout is not None:
            one.running.stdout.close()


@pytest.mark.slow
def test_a_node_that_is_killed_within_a_round_is_recorded_and_the_round_ends(
    start: Callable[..., Started], tmp_path: Path
) -> None:
    flag = tmp_path / "hanging"
    settings = ["rounds.count=2", "rounds.deadline=45", "rounds.quorum=1"]
    run = start(*settings, f"workload_options.flag={flag}")
    wait_for(flag.exists, run.running)
    pids = run.pids()
    os.kill(pids["node-2"], signal.SIGKILL)
    text = run.ends_without_a_trace(pids)
    assert run.running.returncode == 0, text
    first, second = map(json.loads, (tmp_path / "run" / "rounds.jsonl").read_text().splitlines())
    assert first["fates"]["c2"]["outcome"] == "counted"
    assert second["fates"]["c2"]["outcome"] in ("late", "lost", "failed")
    assert second["fates"]["c0"]["outcome"] == "counted"


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_no_program_behind(
    start: Callable[..., Started], sent: signal.Signals
) -> None:
    run = start()
    pids = wait_for(lambda: run.pids() if "node-2" in run.pids() else None, run.running)
    run.running.send_signal(sent)
    if sent is signal.SIGINT:
        text = run.ends_without_a_trace(pids)
        assert run.running.returncode == 130, text
        return
    run.running.wait()
    end = time.monotonic() + PATIENCE
    while not all(map(gone, pids.values())):
        assert time.monotonic() < end, "programs are left"
        time.sleep(0.1)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Flower were installed."""
    monkeypatch.setattr(loopback, "demand_flower", lambda: "1.41.0")


def test_clients_are_divided_among_nodes(work: Workload, installed: None) -> None:
    made = Loopback(work, scenario=Scenario(), nodes=3)
    assert made.parts() == [("c0", "c3"), ("c1",), ("c2",)]
    assert len(Loopback(work, scenario=Scenario()).parts()) == 4


class Dies(Programs):
    """Programs that are started, and then gone."""

    def superlink(self) -> None:
        (self.folder / "superlink.log").write_text("no space left")

    def supernode(self, name: str, config: Mapping[str, str | int]) -> None:
        pass

    def run(self, app: Path, config: Mapping[str, str | int]) -> None:
        with socket.socket(socket.AF_UNIX) as near:
            near.connect(str(config["bridge"]))


def test_when_flower_dies_the_error_says_what_it_said_and_its_log_stays(
    work: Workload, installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loopback, "Programs", Dies)
    monkeypatch.setattr(FlowerFederation, "open", lambda _, job: None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = Loopback(work, scenario=Scenario())
    made.open(cast("Job", None))
    try:
        with pytest.raises(RunFailed, match=r"ServerApp has ended: .* no space left .*superlink\.log"):
            made.clients()
    finally:
        made.stop()
    assert [log.read_text() for log in tmp_path.glob("*/superlink.log")] == ["no space left"]


@pytest.mark.parametrize("nodes", [-1, 5])
def test_no_node_is_without_a_client(work: Workload, installed: None, nodes: int) -> None:
    with pytest.raises(ConfigError, match="1 to 4"):
        Loopback(work, scenario=Scenario(), nodes=nodes)


def test_the_app_is_there() -> None:
    files = {path.name for path in loopback.app_folder().rglob("*.py")}
    assert {"server_app.py", "client_app.py"} <= files


def test_a_program_that_does_not_start_is_told_with_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "flower-superlink"
    broken.write_text("#!/bin/sh\necho the port is taken\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr("fedkit_clients.flower.programs.program", lambda _: str(broken))
    (tmp_path / "fleet").mkdir()
    programs = Programs(tmp_path / "fleet")
    try:
        with pytest.raises(RunFailed, match=r"did not start: .* the port is taken"):
            programs.superlink()
    finally:
        programs.stop()
    assert programs.kept
