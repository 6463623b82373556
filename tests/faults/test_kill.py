"""A run that is killed, anywhere and several times, ends bit for bit as one that was not.

First with a process that dies between any two of its writes, then with a real one under SIGKILL.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkit import RoundPolicy, run, runfolder
from fedkit.config import Devices, Links
from fedkit.runfolder import RunFolder
from fedkit_clients import NumpyWorkload, Softmax
from fedkit_simulations.engine import Simulation
from tests.drifting import Drifting


def go(out: Path | str, rounds: int, resume: bool) -> None:
    """A run with everything that a restart could get wrong: late updates that are carried, clients that
    come and go, crashes, over-selection, memory and personal tensors of clients, state of the server,
    codecs both ways with residuals at the clients and model differences from the server.
    """
    draws = np.random.default_rng(0)
    x = draws.normal(size=(20, 12, 6)).astype(np.float32)
    y = (x @ draws.normal(size=(6, 3))).argmax(axis=2).astype(np.int64)
    data = {f"c{i:02d}": (x[i], y[i]) for i in range(20)}
    work = NumpyWorkload(Softmax(6, 3), data, test=(x.reshape(-1, 6), y.reshape(-1)))
    devices = Devices(
        profile="custom", speed=12, spread=1.5, drop=0.15, availability="markov", on_seconds=20, off_seconds=9
    )
    links = Links(profile="3g", spread=1.0)
    policy = RoundPolicy(cohort=6, over_select=1.3, quorum=2, deadline=3.0, late="carry", max_failures=99)
    federation = Simulation(work, links=links, devices=devices, directory=Path(out, "clients"))
    train = {"epochs": 2, "batch": 4, "lr": 0.1}
    run(
        Drifting(), work, federation, rounds=rounds, policy=policy, train=train, out=out, resume=resume,
        codec_up="tensors:below=1|topk:share=0.3|int8", codec_down="tensors:below=1|sign", feedback="on",
    )  # fmt: skip


def left(out: Path) -> tuple[dict[str, Any], list[str]]:
    """What a run left, without what depends on our clock."""
    summary = json.loads((out / "summary.json").read_text())
    rounds = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    for part in (summary, *rounds):
        del part["wall_seconds"]
    return summary, [json.dumps(r) for r in rounds]


ROUNDS = 4


@pytest.fixture
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the disk: what this process has written, it will read again."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str]]:
    out = tmp_path_factory.mktemp("whole") / "run"
    go(out, ROUNDS, resume=False)
    return left(out)


def test_the_run_has_all_that_a_restart_could_get_wrong(uninterrupted: tuple[Any, ...]) -> None:
    summary, rounds = uninterrupted
    for outcome in ("counted", "late", "lost", "carried"):
        assert summary[f"clients_{outcome}"] > 0, outcome
    assert len(rounds) == ROUNDS


class PowerCut(BaseException):
    """The process is gone: nothing that would run after it may be believed."""


class Disk:
    """Lets so many writes through and then none: a process that died, as far as the disk can tell.

    torn: the last write is done by half: its file is written beside, but not renamed.
    """

    def __init__(self, patch: pytest.MonkeyPatch, allowed: int, torn: bool) -> None:
        self.done, self._allowed, self._torn = 0, allowed, torn
        self._replace, self._append = runfolder.replace_file, RunFolder.append_round
        patch.setattr(runfolder, "replace_file", self._on_replace)
        patch.setattr(RunFolder, "append_round", lambda folder, record: self._on_append(folder, record))

    def _spent(self) -> bool:
        self.done += 1
        return self.done > self._allowed

    def _on_replace(self, path: Path, data: bytes) -> None:
        if self._spent():
            if self._torn and self.done == self._allowed + 1:
                path.with_name(path.name + ".tmp").write_bytes(data[: len(data) // 2])
            raise PowerCut
        self._replace(path, data)

    def _on_append(self, folder: RunFolder, record: Any) -> None:
        if self._spent():
            if self._torn and self.done == self._allowed + 1:
                with (folder.path / "rounds.jsonl").open("a") as file:
                    file.write(record.to_json()[:50])
            raise PowerCut
        self._append(folder, record)


def writes(out: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, 10**9, torn=False)
        go(out, ROUNDS, resume=False)
    return disk.done


@pytest.mark.usefixtures("fast_disk")
@pytest.mark.parametrize("torn", [False, True], ids=["between", "within"])
def test_killed_at_any_write_a_run_ends_the_same(
    tmp_path: Path, uninterrupted: tuple[Any, ...], torn: bool
) -> None:
    count = writes(tmp_path / "counted")
    assert count > 4 * ROUNDS
    for allowed in range(count):
        out = tmp_path / f"run{allowed}"
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, allowed, torn)
            with pytest.raises(PowerCut):
                go(out, ROUNDS, resume=False)
        go(out, ROUNDS, resume=True)
        assert left(out) == uninterrupted, f"killed at write {allowed}"


@pytest.mark.usefixtures("fast_disk")
def test_killed_at_every_write_again_and_again(tmp_path: Path, uninterrupted: tuple[Any, ...]) -> None:
    """Each life gets four writes further than needed to begin, then dies."""
    out, lives = tmp_path / "run", 0
    while True:
        lives += 1
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, 7, torn=lives % 2 == 0)
            try:
                go(out, ROUNDS, resume=lives > 1)
            except PowerCut:
                continue
        break
    assert lives > ROUNDS / 2
    assert left(out) == uninterrupted


LONG = 40
_CHILD = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("kill", {str(Path(__file__))!r})
module = importlib.util.module_from_spec(spec)
sys.modules["kill"] = module
spec.loader.exec_module(module)
module.go(sys.argv[1], {LONG}, sys.argv[2] == "resume")
"""


def start(out: Path, mode: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _CHILD, str(out), mode])


def killed(process: subprocess.Popen[bytes], out: Path, rounds: int, draws: random.Random) -> bool:
    """SIGKILL it once it has done so many rounds, after a moment more; False if it ended before."""
    path = out / "rounds.jsonl"
    while process.poll() is None:
        time.sleep(0.001)
        if path.exists() and path.read_bytes().count(b"\n") >= rounds:
            try:
                process.wait(draws.uniform(0.0, 0.02))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return True
    return False


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a matter of POSIX")
def test_a_process_killed_at_random_instants_ends_the_same(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert start(whole, "new").wait(600) == 0
    draws, out, deaths = random.Random(0), tmp_path / "killed", 0
    for rounds in sorted(draws.sample(range(LONG // 2), 4)):
        process = start(out, "resume" if out.exists() else "new")
        if killed(process, out, rounds, draws):
            assert process.returncode == -signal.SIGKILL
            deaths += 1
    assert deaths >= 2  # a machine that is very busy may be too slow to kill in time
    assert start(out, "resume").wait(600) == 0
    assert left(out) == left(whole)
