"""An aggregator and three clients, real processes on loopback, killed on the way: the simulation's model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedkit import keyfile
from fedkit.launch import run_scenario
from fedkit.scenario import read
from fedkit.secagg.identity import Trust
from fedkit.secagg.rosterfile import write_trust
from tests.ports import reserved

ROUNDS = 5
NAMES = ("c000", "c001", "c002")
LIMIT = 600.0
"""Seconds that the whole may take, on a machine that is busy."""
SETTINGS = (
    *("population.clients=3", "rounds.cohort=3", "rounds.over_select=1", "rounds.quorum=3", "devices.drop=0"),
    *(f"rounds.count={ROUNDS}", "rounds.deadline=600", "codec.up=tensors:below=1|topk:share=0.2|int8"),
    *("codec.down=tensors:below=1|sign", "codec.feedback=on", "train.epochs=1"),
)
_FEDKIT = "import sys; from fedkit.cli import main; sys.exit(main())"


class Party:
    """A command of fedkit in a process of its own, that may be killed and started again."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._words, self._folder, self._lives = words, folder, 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._lives += 1
        command = [sys.executable, "-c", _FEDKIT, *self._words]
        with (self._folder / f"{self._words[0]}-{id(self)}-{self._lives}.log").open("wb") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=subprocess.STDOUT)

    def kill(self, how: int = signal.SIGKILL) -> int:
        assert self._process is not None
        self._process.send_signal(how)
        return self._process.wait(LIMIT)

    def ended(self) -> int | None:
        assert self._process is not None
        return self._process.poll()

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(LIMIT)


@pytest.fixture
def parties(tmp_path: Path) -> Iterator[tuple[Party, list[Party]]]:
    keys = {name: keyfile.make_key(tmp_path / name).public for name in NAMES}
    write_trust(tmp_path / "roster.toml", Trust.of_roster(keys, keyfile.make_key(tmp_path / "server").public))
    with reserved() as port:
        address = f"127.0.0.1:{port}"
        server = Party(
            tmp_path, "serve", "digits", *SETTINGS, "--address", address, "--lease", "2", "--dir", "server"
        )
        words = ["client", f"https://{address}", "digits", *SETTINGS, "--dir"]
        clients = [Party(tmp_path, *words, name) for name in NAMES]
        try:
            yield server, clients
        finally:
            for party in (server, *clients):
                party.end()


def until(what: Callable[[], bool], seconds: float = LIMIT) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


def rounds_done(folder: Path) -> int:
    path = folder / "server" / "run" / "rounds.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def spooled(folder: Path, name: str, stage: str) -> bool:
    return any(len(path.name) == 64 for path in (folder / name).glob(f"*/{stage}/*"))


def logs(folder: Path) -> str:
    return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(folder.glob("*.log")))


def test_killed_on_the_way_the_model_is_that_of_the_simulation(
    tmp_path: Path, parties: tuple[Party, list[Party]]
) -> None:
    server, clients = parties
    server.start()
    for client in clients:
        client.start()
    try:
        until(lambda: spooled(tmp_path, "c001", "tasks") or spooled(tmp_path, "c001", "finished"))
        assert clients[1].kill() == -signal.SIGKILL
        time.sleep(1)  # the others come to the end of the round, and the server waits
        assert server.kill() == -signal.SIGKILL
        clients[1].start()
        time.sleep(1)
        server.start()
        until(lambda: rounds_done(tmp_path) >= 2)
        assert server.kill() == -signal.SIGKILL
        assert clients[0].kill(signal.SIGTERM) == 0
        server.start()
        clients[0].start()
        until(lambda: server.ended() is not None)
        assert server.ended() == 0
    except AssertionError as error:
        raise AssertionError(f"{error}\n{logs(tmp_path)}") from error
    simulated = run_scenario(read("digits", SETTINGS)).summary
    deployed = json.loads((tmp_path / "server" / "run" / "summary.json").read_text())
    assert deployed["model_sha256"] == simulated["model_sha256"]
    assert deployed["metrics"] == simulated["metrics"]
    assert deployed["clients_counted"] == len(NAMES) * ROUNDS
    assert not any(spooled(tmp_path, name, stage) for name in NAMES for stage in ("tasks", "finished"))


pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a matter of POSIX")
