"""From nothing to a trained model, as real processes over TLS: a CA, invites, joining, training, revoking."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fedkit.launch import run_scenario
from fedkit.scenario import read
from tests.ports import reserved

NAMES = ("c000", "c001", "c002")
LIMIT = 600.0
"""Seconds that a step may take, on a machine that is busy."""
SETTINGS = (
    *("population.clients=3", "rounds.cohort=3", "rounds.over_select=1", "rounds.quorum=3"),
    *("devices.drop=0", "rounds.count=1", "rounds.deadline=600", "train.epochs=1"),
    *("secagg.mode=lying_server", "secagg.width=64", "codec.up=none"),
)
_FEDKIT = "import sys; from fedkit.cli import main; sys.exit(main())"


class Town:
    """Commands of fedkit in one folder."""

    def __init__(self, folder: Path, stack: ExitStack, address: str) -> None:
        self.folder, self.address, self._stack = folder, address, stack

    def do(self, *words: str) -> str:
        made = subprocess.run(
            [sys.executable, "-c", _FEDKIT, *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert made.returncode == 0, made.stderr
        return made.stdout

    def start(self, log: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("wb") as file:
            made = subprocess.Popen(
                [sys.executable, "-c", _FEDKIT, *words],
                cwd=self.folder,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self._stack.callback(made.wait, LIMIT)
        self._stack.callback(made.kill)
        return made

    def until(self, what: Callable[[], bool], why: str) -> None:
        end = time.monotonic() + LIMIT
        while not what():
            told = "\n".join(
                f"== {path.name}\n{path.read_text()[-2000:]}" for path in self.folder.glob("*.log")
            )
            assert time.monotonic() < end, f"{why}: it takes too long\n{told}"
            time.sleep(0.05)

    def said(self, log: str, text: str) -> bool:
        return re.search(text, (self.folder / log).read_text()) is not None


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    with ExitStack() as stack, reserved() as port:
        yield Town(tmp_path, stack, f"127.0.0.1:{port}")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_the_whole_journey(town: Town) -> None:
    address = town.address
    town.do("ca", "init")
    door = ("--operator", "127.0.0.1:0")
    serving = town.start(
        "serve.log", "serve", "digits", *SETTINGS, "--ca", "ca/ca.pem", "--address", address, *door
    )
    town.until(lambda: town.said("serve.log", "waiting for devices to enrol"), "serving")
    tokens = [town.do("invite", NAMES[0], "--address", address, "--server", "aggregator")]
    tokens += [town.do("invite", name) for name in NAMES[1:]]
    joining = [
        town.start(f"join-{name}.log", "join", token.strip(), "--dir", name)
        for name, token in zip(NAMES, tokens, strict=True)
    ]
    box = town.folder / "aggregator" / "journal" / "enrol"
    town.until(lambda: len(list((box / "requests").glob("*.json"))) == len(NAMES), "asking")
    assert town.do("ca", "approve").count("client ") == len(NAMES)
    town.until(lambda: all(one.poll() == 0 for one in joining), "joining")
    for name in NAMES:
        town.start(f"{name}.log", "client", "digits", *SETTINGS, "--dir", name)
    town.until(lambda: serving.poll() is not None, "training")
    assert serving.returncode == 0
    deployed = json.loads((town.folder / "aggregator" / "run" / "summary.json").read_text())
    simulated = run_scenario(read("digits", SETTINGS)).summary
    assert deployed["model_sha256"] == simulated["model_sha256"]
    town.do("revoke", NAMES[0], "--dir", "aggregator")
    again = town.start(
        "again.log", "serve", "digits", *SETTINGS, "rounds.count=2", "--address", address, *door
    )
    town.until(lambda: town.said(f"{NAMES[0]}.log", "403 revoked"), "revoking")
    assert again.poll() is None
    assert not town.said(f"{NAMES[1]}.log", "403 revoked")
