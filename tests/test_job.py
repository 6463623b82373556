"""A job's id is its content."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from fedkit.aggregate import Grid
from fedkit.codecs.none import Plain
from fedkit.job import Job, identity
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.settings import SUITES, SecAgg
from fedkit.tensors import Layout
from fedkit_strategies import FedAvg, FedProx

LAYOUT = Layout(("w", "b"), ((2, 3), (3,)), ("float32", "float32"))
EXTRAS = Layout(("c",), ((3,),), ("float32",))
JOB = Job(FedProx(mu=0.1), Plain(), Plain(), LAYOUT, EXTRAS, Grid(), {"lr": 0.1, "epochs": 1}, 7)


def test_the_same_content_has_the_same_id() -> None:
    twin = dataclasses.replace(JOB, strategy=FedProx(mu=0.1), settings={"epochs": 1, "lr": 0.1})
    assert twin.id == JOB.id
    assert len(JOB.id) == 16
    assert set(JOB.id) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    "change",
    [
        {"strategy": FedProx(mu=0.2)},
        {"strategy": FedAvg()},
        {"layout": Layout(("w", "b"), ((3, 2), (3,)), ("float32", "float32"))},
        {"layout": Layout(("w", "b"), ((2, 3), (3,)), ("float64", "float64"))},
        {"extras": Layout((), (), ())},
        {"grid": Grid(max_delta=2.0**6)},
        {"grid": Grid(n_max=2**13)},
        {"settings": {"lr": 0.2, "epochs": 1}},
        {"settings": {"lr": 0.1, "epochs": True}},
        {"model_seed": 8},
        {"metrics": ("loss",)},
        {"secagg": SecAgg()},
    ],
)
def test_any_change_changes_the_id(change: dict[str, Any]) -> None:
    assert dataclasses.replace(JOB, **change).id != JOB.id


@pytest.mark.parametrize(
    "change",
    [
        {"policy": Policy(corrupt=0.1)},
        {"policy": Policy(smallest=4)},
        {"policy": Policy(mode=Mode.HONEST_SERVER)},
        {"width": 64},
        {"explicit": (4, 3)},
        {"suite": SUITES["chacha"]},
        {"retries": 1},
        {"verify": True},
    ],
)
def test_so_does_any_change_of_secure_aggregation(change: dict[str, Any]) -> None:
    secure = dataclasses.replace(JOB, secagg=SecAgg())
    assert dataclasses.replace(JOB, secagg=SecAgg()).id == secure.id
    assert dataclasses.replace(secure, secagg=SecAgg(**change)).id != secure.id


def test_the_id_is_the_same_in_another_process() -> None:
    code = (
        "from fedkit.aggregate import Grid; from fedkit.codecs.none import Plain\n"
        "from fedkit.job import Job\n"
        "from fedkit.tensors import Layout; from fedkit_strategies import FedProx\n"
        "layout = Layout(('w', 'b'), ((2, 3), (3,)), ('float32', 'float32'))\n"
        "extras = Layout(('c',), ((3,),), ('float32',))\n"
        "train = {'lr': 0.1, 'epochs': 1}\n"
        "print(Job(FedProx(mu=0.1), Plain(), Plain(), layout, extras, Grid(), train, 7).id)"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == JOB.id


def test_zero_is_an_empty_sum_of_the_job() -> None:
    zero = JOB.zero()
    assert (zero.layout, zero.extras_layout, zero.grid, zero.clients) == (LAYOUT, EXTRAS, JOB.grid, 0)


class Bare:
    """A plugin that is no dataclass."""

    def __init__(self, value: object) -> None:
        self.value = value


ALIKE: list[tuple[Any, Any]] = [
    (np.zeros(3000), np.zeros(3000)),
    ([1, (2, "x")], [1, (2, "x")]),
    ({"a": 1, "b": np.ones(2)}, {"b": np.ones(2), "a": 1}),
    ({"x", "y", "z"}, {"z", "y", "x"}),
    (FedProx(mu=0.5), FedProx(mu=0.5)),
    ("a b at 0x12", "a b at 0x12"),
]
OTHER: list[tuple[Any, Any]] = [
    (np.zeros(3000), np.where(np.arange(3000) == 1500, 1.0, 0.0)),
    (np.zeros(2), np.zeros(2, np.float32)),
    (np.zeros((2, 3)), np.zeros((3, 2))),
    ([1, 2], (1, 2)),
    ([1, 2], [2, 1]),
    ({"a": 1}, {"a": 2}),
    (FedProx(mu=0.5), FedProx(mu=0.25)),
    (1, True),
    (1, 1.0),
    ("1", 1),
]


@pytest.mark.parametrize(("a", "b"), ALIKE, ids=lambda v: type(v).__name__)
def test_equal_parameters_are_told_alike(a: object, b: object) -> None:
    assert identity(Bare(a)) == identity(Bare(b))


@pytest.mark.parametrize(("a", "b"), OTHER, ids=lambda v: type(v).__name__)
def test_other_parameters_are_told_otherwise(a: object, b: object) -> None:
    assert identity(Bare(a)) != identity(Bare(b))
