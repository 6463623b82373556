"""What a device insists on: read from its file, and held against every job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedkit.errors import ConfigError, ProtocolRefused
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.settings import SecAgg
from fedkit_clients.edge.policy import DevicePolicy, read_policy

FULL = """
secagg = "lying_server"
n_min = 10
corrupt = 0.2
dropout = 0.3
sigma = 60
workloads = ["digits"]
strategies = ["fedavg", "fedprox"]
hours = "22:00-06:30"
monthly_bytes = 500_000_000
proxy = "http://proxy:3128"
max_epochs = 5
max_steps = 2000
max_tasks_per_day = 24
tells_why = false
"""


def write(folder: Path, text: str) -> Path:
    (folder / "policy.toml").write_text(text)
    return folder / "policy.toml"


def test_every_key_is_read(tmp_path: Path) -> None:
    found = read_policy(write(tmp_path, FULL))
    assert found == DevicePolicy(
        *("lying_server", 10, 0.2, 0.3, 60, ("digits",), ("fedavg", "fedprox")),
        *("22:00-06:30", 500_000_000, "http://proxy:3128", 5, 2000, 24, False),
    )
    assert found.window == (22 * 60, 6 * 60 + 30)


def test_no_file_is_no_demand(tmp_path: Path) -> None:
    assert read_policy(tmp_path / "none.toml") == DevicePolicy()
    assert DevicePolicy().window is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('secagg = "honest"', r"policy.toml:1: secagg: .*did you mean 'honest_server'"),
        ("\nn_mim = 3", r"policy.toml:2: n_mim: unknown key; did you mean 'n_min'"),
        ('n_min = "3"', "policy.toml:1: n_min: must be an integer"),
        ("n_min = 2", "fewer than 3 clients hides nobody"),
        ("corrupt = 1.5", "corrupt is a share"),
        ('hours = "22-6"', 'hours: write them as "22:00-06:00"'),
        ('hours = "24:00-06:00"', "hours: write them"),
        ('hours = "06:00-06:00"', "hours: write them"),
        ("monthly_bytes = -1", "monthly_bytes: a number"),
        ("max_epochs = -1", "max_epochs: a number"),
        ("max_steps = 1.5", "max_steps: must be an integer"),
        ("max_tasks_per_day = -1", "max_tasks_per_day: a number"),
        ("max_tasks_per_day = 2.5", "max_tasks_per_day: must be an integer"),
        ("workloads = 5", "policy.toml:1: workloads: must be a list"),
        ("n_min = [", "policy.toml: "),
    ],
)
def test_a_file_that_is_wrong_is_told(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_policy(write(tmp_path, text))


def test_a_file_that_cannot_be_read_is_no_missing_one(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_policy(tmp_path / "policy.toml")


MODES = ("off", "honest_server", "lying_server")


@pytest.mark.parametrize("least", MODES)
@pytest.mark.parametrize("mode", MODES)
def test_a_job_below_the_least_mode_is_refused(aggregator: Any, least: Any, mode: str) -> None:
    secagg = None if mode == "off" else SecAgg(Policy(mode=Mode(mode)))
    job, policy = replace(aggregator.job, secagg=secagg), DevicePolicy(secagg=least)
    if MODES.index(mode) >= MODES.index(least):
        policy.demand(job, "digits")
        return
    with pytest.raises(ProtocolRefused, match=f"insists on '{least}'") as caught:
        policy.demand(job, "digits")
    assert caught.value.rule == "mode"


def test_strategies_and_workloads_are_those_of_the_lists(aggregator: Any) -> None:
    job = aggregator.job
    DevicePolicy(strategies=("fedavg",), workloads=("ward",)).demand(job, "ward")
    for policy, rule in (
        (DevicePolicy(strategies=("fedprox",)), "strategy"),
        (DevicePolicy(workloads=("ward",)), "workload"),
    ):
        with pytest.raises(ProtocolRefused) as caught:
            policy.demand(job, "digits")
        assert caught.value.rule == rule


def test_a_device_that_insists_has_floors_of_its_own(aggregator: Any) -> None:
    weak = SecAgg(Policy(0.0, 0.0, 1, Mode.LYING_SERVER, 3), explicit=(3, 2))
    job = replace(aggregator.job, secagg=weak)
    floors = DevicePolicy(secagg="lying_server", n_min=10).floors(job)
    assert floors.policy == Policy(mode=Mode.LYING_SERVER, smallest=10)
    assert floors.explicit is None


def test_a_device_that_does_not_insist_takes_the_job_but_for_its_fewest(aggregator: Any) -> None:
    asked = SecAgg(Policy(0.0, 0.2, 0, Mode.HONEST_SERVER, 5), explicit=(3, 2))
    job = replace(aggregator.job, secagg=asked)
    for n_min, smallest in ((0, 5), (4, 5), (9, 9)):
        floors = DevicePolicy(n_min=n_min).floors(job)
        assert floors.policy == replace(asked.policy, smallest=smallest)
        assert floors.explicit == (3, 2)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, ""),
        ({"epochs": 5, "lr": 0.1}, ""),
        ({"epochs": 6}, "epochs = 6, this device allows max_epochs = 5"),
        ({"epochs": "5"}, "epochs = 5, this device allows max_epochs = 5"),
        ({"epochs": float("nan")}, "epochs = nan"),
        ({"steps": 2000, "epochs": 99}, ""),
        ({"steps": 2001, "epochs": 1}, "steps = 2001, this device allows max_steps = 2000"),
    ],
)
def test_no_task_gets_more_work_out_of_a_device_than_its_owner_allows(
    settings: dict[str, Any], told: str
) -> None:
    policy = DevicePolicy(max_epochs=5, max_steps=2000)
    if not told:
        policy.allow(settings)
        return
    with pytest.raises(ProtocolRefused, match=told) as caught:
        policy.allow(settings)
    assert caught.value.rule in ("max_epochs", "max_steps")


def test_a_ceiling_is_not_gone_around_by_counting_in_something_else() -> None:
    with pytest.raises(ProtocolRefused, match="by max_epochs alone"):
        DevicePolicy(max_epochs=5).allow({"steps": 10})
    with pytest.raises(ProtocolRefused, match="by max_steps alone"):
        DevicePolicy(max_steps=5).allow({"epochs": 1})
    DevicePolicy().allow({"steps": 10**9, "epochs": 10**9})
