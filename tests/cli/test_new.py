"""`fedkit new`: what it writes works at once."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkit.config import Scenario
from fedkit.scenario import read
from fedkit_clients.settings import TRAIN_SETTINGS, TrainSettings

Command = Callable[..., Any]


def test_a_new_scenario_reads_and_shows_every_key(folder: Path, fedkit: Command) -> None:
    assert fedkit("new", "scenario", "mine").exit_code == 0
    text = (folder / "mine.toml").read_text()
    assert read(folder / "mine.toml").workload == "digits"
    for section in dataclasses.fields(Scenario):
        default = getattr(Scenario(), section.name)
        if not dataclasses.is_dataclass(default):
            assert section.name == "places" or section.name in text
            continue
        body = text.split(f"\n[{section.name}]")[1].split("\n[")[0]
        for key in dataclasses.fields(default):
            assert key.name == "options" or re.search(rf"^(# )?{key.name} = ", body, re.M)
    train = text.split("\n[train]")[1].split("\n[")[0]
    assert set(re.findall(r"^# (\w+) = ", train, re.M)) == TRAIN_SETTINGS.keys()


def test_the_defaults_in_a_new_scenario_are_the_defaults(folder: Path, fedkit: Command) -> None:
    fedkit("new", "scenario", "mine")
    (folder / "all.toml").write_text(
        re.sub(r"^# (\w+ = )", r"\1", (folder / "mine.toml").read_text(), flags=re.M)
    )
    made, every, plain = read(folder / "mine.toml"), read(folder / "all.toml"), Scenario()
    assert TrainSettings.of(every.train) == TrainSettings()
    assert dataclasses.replace(every, train={}) == made
    assert made.rounds == dataclasses.replace(plain.rounds, cohort=10)
    assert made.population == dataclasses.replace(plain.population, clients=50, partition="dirichlet")
    assert (made.links, made.devices, made.stop) == (plain.links, plain.devices, plain.stop)
    assert (made.aggregate, made.codec, made.secagg) == (plain.aggregate, plain.codec, plain.secagg)


def test_a_new_scenario_takes_ones_own_arrays(folder: Path, fedkit: Command) -> None:
    fedkit("new", "scenario", "mine")
    text = (folder / "mine.toml").read_text()
    assert 'workload = "arrays"' in text
    text = text.replace('workload = "digits"', 'workload = "arrays"')
    text = text.replace("[workload_options]", '[workload_options]\npath = "mine.npz"')
    (folder / "mine.toml").write_text(text)
    x = np.random.default_rng(0).normal(size=(200, 2))
    np.savez(folder / "mine.npz", x=x, y=(x[:, 0] > 0).astype(int))
    assert fedkit("run", "mine.toml", "rounds.count=1").exit_code == 0


@pytest.mark.parametrize("kind", ["strategy", "codec", "scenario"])
@pytest.mark.parametrize("name", ["1st", "a b", "../x", "class", ""])
def test_a_bad_name_is_refused(folder: Path, fedkit: Command, kind: str, name: str) -> None:
    before = sorted(folder.iterdir())
    result = fedkit("new", kind, name)
    assert result.exit_code == 2
    assert "use letters" in result.stderr
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(("kind", "name"), [("strategy", "FedAvg"), ("codec", "int8")])
def test_a_name_that_is_registered_is_refused(folder: Path, fedkit: Command, kind: str, name: str) -> None:
    result = fedkit("new", kind, name)
    assert result.exit_code == 2
    assert f"{kind} '{name.lower()}' is registered already, by fedkit 0" in result.stderr
    assert not (folder / name).exists()


def test_nothing_is_overwritten(folder: Path, fedkit: Command) -> None:
    for kind in ("strategy", "scenario"):
        assert fedkit("new", kind, "quiet-rule").exit_code == 0
        assert "exists already" in fedkit("new", "codec", "quiet-rule").stderr
        assert "exists already" in fedkit("new", kind, "quiet-rule").stderr


def test_a_new_strategy_can_be_tried_from_its_file(folder: Path, fedkit: Command) -> None:
    fedkit("new", "strategy", "my-avg", "--dir", "sub")
    name = "sub/my-avg/my_avg/__init__.py:MyAvg"
    assert fedkit("check", "strategy", name).exit_code == 0
    assert fedkit("run", "toy.toml", f"strategy.name={name}", "strategy.beta=0.5").exit_code == 0


def test_a_new_codec_can_be_tried_from_its_file_alone_and_in_a_pipeline(
    folder: Path, fedkit: Command
) -> None:
    fedkit("new", "codec", "my-codec")
    name = "my-codec/my_codec/__init__.py:MyCodec"
    for spec in (name, f"rotate|{name}"):
        checked = fedkit("check", "codec", spec)
        assert checked.exit_code == 0
        assert "ok  is unbiased if it says so" in checked.stdout
    assert fedkit("run", "toy.toml", f"codec.up={name}").exit_code == 0


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="needs hatchling to build offline")
@pytest.mark.parametrize(("kind", "name"), [("strategy", "My-Avg"), ("codec", "My-Codec")])
def test_a_new_plugin_installs_passes_its_test_and_is_found_by_name(
    folder: Path, fedkit: Command, kind: str, name: str
) -> None:
    fedkit("new", kind, name)
    site = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(site), f"./{name}"], check=True, timeout=600)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", name]
    done = subprocess.run(test, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
    script = "from fedkit.cli import main; main()"
    check = [sys.executable, "-c", script, "check", kind, name.lower()]
    checked = subprocess.run(check, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("kind", ["strategy", "codec"])
@pytest.mark.parametrize("name", ["numpy", "fedkit", "Fedkit-Strategies", "json"])
def test_the_name_of_a_module_is_refused(folder: Path, fedkit: Command, kind: str, name: str) -> None:
    result = fedkit("new", kind, name)
    assert result.exit_code == 2
    assert "is the name of a Python module here" in result.stderr
    assert not (folder / name).exists()


@pytest.mark.parametrize("name", ["a-", "a_", "-a", "a.b", "x" * 3 + "/y"])
def test_a_name_that_pip_would_refuse_is_refused(folder: Path, fedkit: Command, name: str) -> None:
    result = fedkit("new", "strategy", name)
    assert result.exit_code == 2
    assert not (folder / name).exists()


def test_a_folder_that_is_no_package_takes_no_name(
    folder: Path, fedkit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mine_alone").mkdir()
    monkeypatch.syspath_prepend(str(folder))
    assert fedkit("new", "strategy", "mine-alone").exit_code == 0
