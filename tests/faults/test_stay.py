"""The life of an aggregator, in little: runs follow each other, devices stay and are not touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkit.keyfile import read_key
from fedkit.runfolder import load_tensors
from tests.faults.commands import LIMIT, Commands

SETTINGS = (
    *("population.clients=3", "rounds.cohort=2", "rounds.over_select=1", "rounds.quorum=2"),
    *("devices.drop=0", "rounds.deadline=600", "train.epochs=1"),
)


class Place(Commands):
    """An aggregator and its CA in one folder."""

    def serve(self, log: str, *words: str) -> subprocess.Popen[bytes]:
        return self.start(log, "serve", "digits", *SETTINGS, *words, "--address", self.address, "--stay")

    def certified(self, log: str, *words: str) -> None:
        """A command that the CA has to answer on the way."""
        asks = self.start(log, *words)
        box = self.folder / "aggregator" / "journal" / "enrol" / "requests"
        self.until(lambda: bool(list(box.glob("*.json"))), "asking")
        self.do("ca", "approve")
        self.until(lambda: asks.poll() is not None, "being certified")
        assert asks.returncode == 0, self.read(log)

    def join(self, name: str) -> None:
        token = self.do("invite", name, "--address", self.address, "--server", "aggregator").strip()
        self.certified(f"join-{name}.log", "join", token, "--dir", name)


def same(path: Path, wanted: Mapping[str, Any]) -> bool:
    if not path.exists():
        return False
    found = load_tensors(path)[0]
    return all(np.array_equal(found[name], array) for name, array in wanted.items())


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_between_runs_devices_join_and_renew_and_the_next_run_has_them_all(
    operate: Callable[..., Place],
) -> None:
    place = operate(Place)
    place.do("ca", "init")
    first = place.serve("first.log", "rounds.count=1", "--ca", "ca/ca.pem")
    place.until(lambda: place.said("first.log", "listening on"), "serving")
    for name in ("c000", "c001"):
        place.join(name)
        out = ("--model-out", f"{name}.safetensors")
        place.start(f"{name}.log", "client", "digits", *SETTINGS, "--dir", name, *out)
    place.until(lambda: place.said("first.log", "the run is over; devices are answered"), "training")

    place.join("c002")
    key = read_key(place.folder / "c002").public
    place.certified("rotate.log", "rotate", "--dir", "c002", "--wait", "500")
    assert read_key(place.folder / "c002").public != key
    place.start("c002.log", "client", "digits", *SETTINGS, "--dir", "c002")
    place.until(lambda: place.said("c002.log", "joined job"), "joining a run that is over")
    told = json.loads(place.do("status", "--dir", "aggregator", "--format", "json"))
    assert (told["run"]["ended"], told["run"]["done"], told["running"]) == ("done", 1, True)
    first.send_signal(signal.SIGTERM)
    assert first.wait(LIMIT) == 0, place.read("first.log")

    more = ("train.lr=0.05", "rounds.count=2", "rounds.cohort=3", "rounds.quorum=3", "--wait-for", "3")
    second = place.serve("second.log", *more)
    place.until(lambda: place.said("second.log", "the run is over; devices are answered"), "the next run")
    runs = [
        json.loads((place.folder / "aggregator" / name / "summary.json").read_text())
        for name in ("run-1", "run")
    ]
    assert [(run["rounds"], run["clients_counted"]) for run in runs] == [(1, 2), (2, 6)]
    assert [run["clock"] for run in runs] == ["wall", "wall"]
    assert not place.said("second.log", "virtual")
    last = load_tensors(place.folder / "aggregator" / "run" / "last.safetensors")[0]
    place.until(lambda: same(place.folder / "c000.safetensors", last), "the last model comes to a device")
    second.send_signal(signal.SIGTERM)
    assert second.wait(LIMIT) == 0, place.read("second.log")
