"""From a scenario to a run: objects, checks, run folders, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fedkit.errors import CheckpointError, ConfigError
from fedkit.federation import RoundPolicy
from fedkit.launch import build, run_scenario, saved_scenario, secure
from fedkit.scenario import read
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.settings import SUITES, SecAgg
from fedkit_strategies.fedprox import FedProx

OWN = """
import numpy as np
from fedkit_clients.numpy_trainer import NumpyWorkload, Softmax

def make(*, population=None, seed=0, size: int = 40):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, 2)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    count = population.clients if population is not None and population.clients else 4
    clients = {f"c{i}": (x[i::count], y[i::count]) for i in range(count)}
    made = NumpyWorkload(Softmax(2, 2), clients, test=(x, y))
    made.given = (population, seed)
    return made

ready = make()

def wrong():
    return 3
"""
TEXT = """
workload = "own.py:make"
seed = 7
population.clients = 5
[rounds]
count = 3
cohort = 3
deadline = 50.0
[strategy]
name = "fedprox"
mu = 0.5
[train]
lr = 0.5
batch = 5
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    path = tmp_path / "my.toml"
    path.write_text(TEXT)
    return path


def test_build_makes_what_the_scenario_names(file: Path) -> None:
    built = build(read(file))
    assert built.strategy == FedProx(mu=0.5)
    assert built.policy == RoundPolicy(cohort=3, deadline=50.0)
    assert built.grid is None
    workload = cast("Any", built.workload)
    assert (workload.given[0].clients, workload.given[1]) == (5, 7)
    assert len(built.workload.clients()) == 5


def test_a_seed_among_the_workload_options_holds_the_data_still(file: Path) -> None:
    scenario = read(file, ["workload_options.seed=1"])
    assert cast("Any", build(scenario).workload).given[1] == 1
    assert scenario.seed == 7


def test_an_object_is_taken_as_it_is(file: Path) -> None:
    built = build(read(file, [f"workload={file.parent}/own.py:ready"]))
    assert cast("Any", built.workload).given == (None, 0)


def test_the_grid_follows_the_aggregate_section(file: Path) -> None:
    grid = build(read(file, ["aggregate.max_weight=64", "aggregate.max_delta=4"])).grid
    assert grid is not None
    assert (grid.max_weight, grid.max_delta) == (64.0, 4.0)
    with pytest.raises(ConfigError, match=r"override 'aggregate.max_delta=1e30': \[aggregate\]"):
        build(read(file, ["aggregate.max_delta=1e30"]))
    mended = build(read(file, ["aggregate.max_delta=1e9", "aggregate.max_weight=100"])).grid
    assert mended is not None
    assert mended.max_weight == 100.0


def test_a_misspelt_training_setting_is_named_with_its_line(file: Path) -> None:
    file.write_text(TEXT.replace("batch", "bach"))
    with pytest.raises(ConfigError) as caught:
        build(read(file))
    assert str(caught.value) == f"{file}:14: [train] bach: unknown key; did you mean 'batch'?"


NPZ = """
workload = "arrays"
[workload_options]
path = "data.npz"
[population]
clients = 3
partition = "PARTITION"
"""


@pytest.mark.parametrize(
    ("partition", "text"),
    [
        ("natural", "7: [population] partition: 'natural': the data names no clients; take one of 'iid'"),
        ("shards", "6: [population] clients: 3: 2 examples do not give each client"),
    ],
)
def test_a_division_that_the_data_does_not_allow_is_an_error_with_its_line(
    tmp_path: Path, partition: str, text: str
) -> None:
    np.savez(tmp_path / "data.npz", x=np.eye(2), y=np.array([0, 1]))
    file = tmp_path / "arrays.toml"
    file.write_text(NPZ.replace("PARTITION", partition))
    with pytest.raises(ConfigError) as caught:
        build(read(file))
    assert str(caught.value).startswith(f"{file}:{text}")


def test_a_division_that_is_not_in_the_file_is_an_error_with_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.eye(2), y=np.array([0, 1]))
    file = tmp_path / "arrays.toml"
    file.write_text(NPZ.partition("[population]")[0])
    with pytest.raises(ConfigError) as caught:
        build(read(file))
    assert str(caught.value).startswith(f"{file}: [population] partition: 'natural'")


def test_a_factory_that_makes_no_workload_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="makes a int, which is no Workload"):
        build(read(file, [f"workload={file.parent}/own.py:wrong"]))


def test_a_run_leaves_a_folder_whose_scenario_repeats_it(file: Path, tmp_path: Path) -> None:
    scenario = read(file)
    first = run_scenario(scenario, out=tmp_path / "run")
    assert first.summary["rounds"] == 3
    assert read(tmp_path / "run" / "scenario.toml") == scenario
    again = run_scenario(read(tmp_path / "run" / "scenario.toml"))
    assert again.summary["model_sha256"] == first.summary["model_sha256"]


def test_a_resumed_run_goes_on_and_remembers_what_was_changed(file: Path, tmp_path: Path) -> None:
    run_scenario(read(file), out=tmp_path / "run")
    longer = saved_scenario(tmp_path / "run", ["rounds.count=5"])
    result = run_scenario(longer, out=tmp_path / "run", resume=True)
    assert result.summary["rounds"] == 5
    assert saved_scenario(tmp_path / "run").rounds.count == 5
    whole = run_scenario(read(file, ["rounds.count=5"]))
    assert result.summary["model_sha256"] == whole.summary["model_sha256"]


def test_only_the_length_and_the_stopping_rule_may_change(file: Path, tmp_path: Path) -> None:
    run_scenario(read(file, ["rounds.count=1"]), out=tmp_path / "run")
    assert saved_scenario(tmp_path / "run", ["stop.metric=accuracy", "stop.target=1"]).stop.target == 1.0
    with pytest.raises(
        ConfigError, match=r"override 'strategy.mu=2': \[strategy\] mu: a run that is resumed"
    ):
        saved_scenario(tmp_path / "run", ["strategy.mu=2"])
    with pytest.raises(ConfigError, match=r"override 'strategy.name=fedavg': \[strategy\] name: a run"):
        saved_scenario(tmp_path / "run", ["strategy.name=fedavg"])
    with pytest.raises(CheckpointError, match="no run to resume"):
        saved_scenario(tmp_path)


def test_stop_ends_the_run_and_a_resumed_one_stays_ended(file: Path, tmp_path: Path) -> None:
    scenario = read(file, ["rounds.count=30", "stop.metric=accuracy", "stop.target=0.6"])
    result = run_scenario(scenario, out=tmp_path / "run")
    assert 0 < result.summary["rounds"] < 30
    assert "accuracy reached" in result.summary["stopped"]
    again = run_scenario(saved_scenario(tmp_path / "run"), out=tmp_path / "run", resume=True)
    assert again.summary["rounds"] == result.summary["rounds"]


@pytest.mark.parametrize(
    ("mu", "text"),
    [("-1", r"override 'strategy.mu=-1': \[strategy\] mu: -1.0: must be at least 0 and finite")],
)
def test_a_value_that_the_strategy_refuses_is_named_with_its_place(file: Path, mu: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build(read(file, [f"strategy.mu={mu}"]))


def test_a_value_error_of_a_strangers_strategy_is_named_with_its_place(file: Path) -> None:
    (file.parent / "odd.py").write_text(
        "from dataclasses import dataclass\nfrom fedkit_strategies import FedAvg\n\n\n"
        "@dataclass(frozen=True)\nclass Odd(FedAvg):\n    nu: int = 1\n\n"
        "    def __post_init__(self):\n        if self.nu == 2:\n            raise ValueError('nu is even')\n"
    )
    named = f"strategy.name={file.parent}/odd.py:Odd"
    assert build(read(file, [named]))
    with pytest.raises(ConfigError, match=r"my.toml:9: strategy: .*nu is even"):
        build(read(file, [named, "strategy.nu=2"]))


def test_secure_aggregation_of_a_scenario(file: Path) -> None:
    assert secure(read(file).secagg) == "off"
    assert secure(read(file, ["secagg.mode=lying_server"]).secagg) == SecAgg()
    keys = "mode=honest_server width=64 corrupt=.1 dropout=.2 sigma=80 n_min=4 neighbours=6 threshold=4"
    keys += " retries=0 verify=true suite=chacha"
    made = read(file, [f"secagg.{key}" for key in keys.split()]).secagg
    policy = Policy(0.1, 0.2, 80, Mode.HONEST_SERVER, 4)
    assert secure(made) == SecAgg(policy, 64, (6, 4), SUITES["chacha"], 0, True)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("codec.up=int8", r"override 'codec.up=int8': \[codec\] up: '.*' cannot be added under secure agg"),
        ("rounds.cohort=2", r"override 'rounds.cohort=2': \[rounds\] cohort: sums of 2 clients hide nobody"),
        ("aggregate.max_delta=1e8", r"override .*: \[secagg\] width: 32 with aggregate.max_delta = 1e\+08"),
    ],
)
def test_what_secure_aggregation_refuses_is_named_with_its_place(
    file: Path, tmp_path: Path, override: str, text: str
) -> None:
    scenario = read(file, ["secagg.mode=honest_server", override])
    with pytest.raises(ConfigError, match=text):
        run_scenario(scenario, out=tmp_path / "run")
    assert not (tmp_path / "run" / "scenario.toml").exists()
