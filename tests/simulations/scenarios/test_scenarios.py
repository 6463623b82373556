"""Every shipped scenario says what it is, runs a round and counts its clients."""

import os
from importlib.resources import files
from pathlib import Path

import pytest

from fedkit.history import Outcome
from fedkit.launch import build, run_scenario
from fedkit.scenario import read

NEEDS = {
    "adult": "adult.npz",
    "heart": "heart_disease.npz",
    "mnist-iid": "mnist.npz",
    "mnist-shards": "mnist.npz",
    "mnist-writers": "mnist.npz",
    "private-heart": "heart_disease.npz",
    "shakespeare": "shakespeare_roles.npz",
    "wisdm": "wisdm_har.npz",
}
FREE = ("digits", "fedprox-synthetic")
CLIENTS = {
    "adult": 15,
    "digits": 50,
    "fedprox-synthetic": 30,
    "heart": 4,
    "mnist-iid": 100,
    "mnist-shards": 100,
    "mnist-writers": 539,
    "private-heart": 4,
    "shakespeare": 639,
    "wisdm": 36,
}


def one_round(name: str) -> None:
    scenario = read(name, ["rounds.count=1"])
    assert len(build(scenario).workload.clients()) == CLIENTS[name]
    (record,) = run_scenario(scenario).history.rounds
    assert record.ok
    assert record.count(Outcome.counted) == (scenario.rounds.cohort or CLIENTS[name])
    assert 0 < record.metrics["accuracy"] < 1


def test_the_table_is_complete() -> None:
    shipped = {
        Path(f.name).stem for f in files("fedkit_simulations.scenarios").iterdir() if ".toml" in f.name
    }
    assert shipped == set(NEEDS) | set(FREE) == set(CLIENTS)


@pytest.mark.parametrize("name", sorted(CLIENTS))
def test_description_is_one_line(name: str) -> None:
    description = read(name).description
    assert 20 < len(description) < 100
    assert "\n" not in description


@pytest.mark.parametrize("name", FREE)
def test_one_round_without_data(name: str) -> None:
    if name == "digits":
        pytest.importorskip("sklearn")
    one_round(name)


@pytest.mark.data
@pytest.mark.parametrize("name", sorted(NEEDS))
def test_one_round_with_data(name: str) -> None:
    if not (Path(os.environ.get("FEDKIT_DATA", "/nowhere")) / NEEDS[name]).is_file():
        pytest.skip(f"needs {NEEDS[name]} in the directory FEDKIT_DATA (docs/data.md)")
    if name == "shakespeare":
        pytest.importorskip("torch")
    one_round(name)


@pytest.mark.slow
def test_the_demo_reaches_93_percent_while_phones_drop_out() -> None:
    pytest.importorskip("sklearn")
    result = run_scenario(read("digits"))
    assert result.summary["metrics"]["accuracy"] >= 0.93
    assert result.summary["clients_lost"] > 0
    assert result.summary["rounds_failed"] == 0
