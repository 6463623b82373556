"""Where a run stands, live and from its folder."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from fedkit.aggregator.progress import Progress, of_folder
from fedkit.launch import run_scenario
from fedkit.scenario import read

SETTINGS = (
    "population.clients=4",
    "rounds.count=2",
    "rounds.cohort=4",
    "train.epochs=1",
    "devices.drop=0",
    "rounds.quorum=2",
)


def test_it_tells_of_a_run_and_so_does_its_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress()
    caplog.set_level(logging.INFO, "fedkit.aggregator")
    assert (progress.told()["done"], progress.told()["now"]) == (0, None)
    run_scenario(read("digits", SETTINGS), out=tmp_path / "run", observers=[progress])
    told = progress.told()
    assert (told["rounds"], told["done"], told["failed"], told["ended"]) == (2, 2, 0, "done")
    assert told["last"] == {"round": 1, "ok": True, "reason": ""}
    assert 0 < told["metrics"]["accuracy"] <= 1
    assert sum(told["outcomes"].values()) >= 8
    said = [text for text in caplog.messages if text.startswith("round ")]
    assert {text.split()[1] for text in said} == {"1:", "2:"}, "people count from 1"
    assert said[0] == "round 1: 4 clients are asked"
    assert said[-1] == "round 2: done"
    with (tmp_path / "run" / "rounds.jsonl").open("a") as file:
        file.write('{"torn')
    assert of_folder(tmp_path / "run") == {**told, "rounds": 0, "ended": ""}


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    assert of_folder(tmp_path)["done"] == 0
