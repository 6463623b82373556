"""What a node is: its own settings before those of the run, and no code that a server names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fedkit.errors import ConfigError
from fedkit_clients.flower.setup import Config, node_setup, scenario_of

OWN = '''
import numpy as np
from fedkit_clients.numpy_trainer import NumpyWorkload, Softmax


def make(*, seed):
    """Four clients."""
    x, y = np.eye(8, dtype=np.float32), np.arange(8) % 2
    return NumpyWorkload(Softmax(8, 2), {f"c{i}": (x[i::4], y[i::4]) for i in range(4)})
'''


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A scenario with a workload in a file of code."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "own.toml").write_text('workload = "own.py:make"\n')
    return str(tmp_path / "own.toml")


def test_a_node_takes_the_scenario_of_the_run_if_it_is_installed() -> None:
    found = scenario_of({}, {"scenario": "digits", "set": "population.clients=17 seed=3"})
    assert (found.workload, found.population.clients, found.seed) == ("digits", 17, 3)


def test_its_own_comes_first(own: str) -> None:
    found = scenario_of({"scenario": own}, {"scenario": "digits", "set": "seed=3"})
    assert found.workload.endswith("own.py:make")
    assert found.seed == 0


@pytest.mark.parametrize(
    "setting",
    ["", "workload={}:make", "strategy.name={}:make", "codec.up={}:make", "'workload=\"{}\\u003amake\"'"],
)
def test_no_code_is_loaded_that_a_server_names(own: str, tmp_path: Path, setting: str) -> None:
    trap = tmp_path / "trap.py"
    trap.write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'sprung')!r}).touch()\nmake = None\n")
    (tmp_path / "trap.toml").write_text('workload = "trap.py:make"\n')
    run = {"scenario": str(tmp_path / "trap.toml")}
    if setting:
        run = {"scenario": "digits", "set": setting.format(trap)}
    with pytest.raises(ConfigError, match="node"):
        scenario_of({}, run)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("config", "clients"),
    [
        ({"clients": "c2, c0"}, ("c0", "c2")),
        ({"partition-id": 0, "num-partitions": 3}, ("c0", "c3")),
        ({"partition-id": 2, "num-partitions": 3}, ("c2",)),
    ],
)
def test_the_clients_of_a_node(own: str, config: dict[str, Any], clients: tuple[str, ...]) -> None:
    assert node_setup({"scenario": own, **config}, {}).clients == clients


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({}, "say which clients this node is"),
        ({"partition-id": 0}, "say which clients this node is"),
        ({"partition-id": 3, "num-partitions": 3}, "part 3 of 3"),
        ({"partition-id": 0, "num-partitions": 5}, "part 0 of 5, for a workload of 4"),
        ({"clients": "c0,c9"}, "has no 'c9'"),
        ({"client": "c0"}, "client: unknown key; did you mean 'clients'"),
    ],
)
def test_a_config_that_cannot_be_says_what_to_write(own: str, config: Config, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        node_setup({"scenario": own, **config}, {})


def test_settings_of_a_node_are_never_left_out() -> None:
    """A node that asks for secure sums and is not heard would give plain ones."""
    with pytest.raises(ConfigError, match="set: is for a scenario of the node"):
        node_setup({"clients": "c000", "set": "secagg.mode=honest_server"}, {"scenario": "digits"})


def test_the_page_has_settings_that_can_be() -> None:
    page = (Path(__file__).parents[3] / "docs" / "tutorial-flower.md").read_text(encoding="utf-8")
    runs = re.findall(r"""-c 'scenario="(\w+)" set="([^"]+)" """, page)
    assert len(runs) == 1
    for scenario, settings in runs:
        assert scenario_of({}, {"scenario": scenario, "set": settings}).population.clients == 4


def test_a_node_without_a_scenario_says_so() -> None:
    with pytest.raises(ConfigError, match="give this node its own"):
        node_setup({"clients": "c0"}, {"scenario": "nonsense"})
