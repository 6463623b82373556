"""An aggregator moves to another address, as real processes over TLS: nobody joins anew."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from subprocess import Popen

import pytest

from tests.faults.commands import LIMIT
from tests.faults.town import Town
from tests.ports import reserved

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="signals")]
WORK = """
import numpy as np
from fedkit_clients import NumpyWorkload, Softmax

def make():
    x = np.arange(80, dtype=np.float32).reshape(20, 4) / 80
    y = np.arange(20) % 2
    return NumpyWorkload(Softmax(4, 2), {"c000": (x, y), "c001": (x, y)}, test=(x, y))
"""
WORDS = ("s.toml", "rounds.count=100000", "rounds.cohort=1", "rounds.quorum=1", "rounds.max_failures=1000")


def ends(process: Popen[bytes]) -> None:
    process.terminate()
    process.wait()


def test_devices_are_told_once_and_invites_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "s.toml").write_text('workload = "work.py:make"\n')
    with ExitStack() as stack:
        ports = [stack.enter_context(reserved()) for _ in range(2)]
        town = Town(tmp_path, stack, f"127.0.0.1:{ports[0]}")
        town.do("ca", "init")

        def goes_on(log: str, *words: str) -> Popen[bytes]:
            made, rounds = town.start(log, "client", *words, *WORDS, "--dir", "c000"), len(town.rounds())
            town.until(lambda: len(town.rounds()) > rounds + 1, log)
            return made

        def serve(log: str) -> Popen[bytes]:
            made = town.start(log, "serve", *WORDS, "--ca", "ca/ca.pem", "--address", town.address)
            town.until(lambda: town.said(log, "listening on"), "serving")
            return made

        serving = serve("serve.log")
        town.join("c000")
        token = town.do("invite", "c001").strip()
        ends(goes_on("before.log"))
        ends(serving)
        town.address = f"127.0.0.1:{ports[1]}"
        serve("again.log")
        ends(goes_on("told.log", f"https://{town.address}"))
        goes_on("kept.log")
        joining = town.start("join.log", "join", token, "--dir", "c001", "--address", town.address)
        requests = tmp_path / "aggregator" / "journal" / "enrol" / "requests"
        town.until(lambda: bool(list(requests.glob("*.json"))), "asking")
        town.approve()
        assert joining.wait(LIMIT) == 0
        assert town.address in (tmp_path / "c001" / "aggregator.toml").read_text()
