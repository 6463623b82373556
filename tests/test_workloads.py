"""Workloads by name: registered, of a file, or of a module; as they stand or made with options."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedkit.config import Population
from fedkit.errors import ConfigError, PluginError
from fedkit.workloads import is_workload, load, make

WARD = """
import numpy as np
from fedkit_clients import NumpyWorkload, Softmax

def hospital(rows: int = 4, seed: int = 0):
    x = np.full((rows, 2), seed, np.float32)
    return NumpyWorkload(Softmax(2, 2), {"c": (x, np.zeros(rows, np.int64))})

standing = hospital()
odd = lambda: 5
nothing = 5
"""


@pytest.fixture(autouse=True)
def _ward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "ward_of_tests.py").write_text(WARD)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("ward_of_tests", None)


@pytest.mark.parametrize("name", ["ward_of_tests:hospital", "ward_of_tests.py:hospital"])
def test_a_factory_gets_its_options_and_what_it_takes_of_the_scenario(name: str) -> None:
    made = make(name, {"rows": 7}, Population(), 3)
    x, y = made.data["c"]  # type: ignore[attr-defined]
    assert (len(y), x[0, 0]) == (7, 3.0)
    own = make(name, {"seed": 5}, Population(), 3)
    assert own.data["c"][0][0, 0] == 5.0  # type: ignore[attr-defined]


def test_a_workload_may_stand_ready() -> None:
    assert is_workload(make("ward_of_tests:standing", {}, Population(), 0))
    with pytest.raises(ConfigError, match="rows: unknown key; the workload is an object"):
        make("ward_of_tests:standing", {"rows": 5}, Population(), 0)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("ward_of_tests:hospitl", "has no 'hospitl'; did you mean 'hospital'"),
        ("no_such_module:x", "no_such_module cannot be imported"),
        ("ward_of_tests:odd", "makes a int, which is no Workload"),
        ("ward_of_tests:nothing", "neither a workload nor a factory"),
        ("digit", "did you mean 'digits'"),
    ],
)
def test_a_name_that_leads_nowhere_is_told(name: str, told: str) -> None:
    with pytest.raises(PluginError, match=told):
        make(name, {}, Population(), 0)


def test_a_registered_name_comes_before_a_module() -> None:
    assert callable(load("digits"))


def test_wrong_options_are_told() -> None:
    with pytest.raises(ConfigError, match="row: unknown key; did you mean 'rows'"):
        make("ward_of_tests:hospital", {"row": 5}, Population(), 0)
