"""The figures of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from fedkit.aggregate import Grid
from fedkit.codecs.none import Plain
from fedkit.history import Carried, Fate, History, Outcome, RoundRecord
from fedkit.job import Job
from fedkit.messages import Metrics
from fedkit.summary import better, environment, headline, lower_is_better, summarise
from fedkit.tensors import Layout, Tensors, digest
from fedkit.trainer import Trainer
from fedkit_strategies import FedAvg

MODEL = {"w": np.ones((2, 3), np.float32), "n": np.array(7)}


class Work:
    def init(self, seed: int) -> Tensors:
        return MODEL

    def clients(self) -> Sequence[str]:
        return ["ann"]

    def trainer(self, client: str) -> Trainer:
        raise NotImplementedError

    def evaluate(self, model: Tensors) -> Metrics:
        return {}


def record(number: int, ok: bool, fates: Sequence[Outcome], metrics: Metrics, carried: int) -> RoundRecord:
    named = {f"c{i}": Fate(outcome) for i, outcome in enumerate(fates)}
    kept = {f"k{i}": Carried(0, Outcome.counted) for i in range(carried)} | {"k": Carried(0, Outcome.lost)}
    return RoundRecord(number, ok, "", named, kept, 1.0, {}, metrics, 10, 20, 30, 0.0, 1.0, 0.1)


def summary(history: History, best: tuple[str, float, int] | None = None) -> dict[str, object]:
    layout = Layout(("w",), ((2, 3),), ("float32",))
    job = Job(FedAvg(), Plain(), Plain(), layout, Layout((), (), ()), Grid(), {}, 0)
    return summarise(job, "Work", 5, MODEL, history, best)


def test_every_outcome_is_counted_over_all_rounds() -> None:
    o = Outcome
    history = History({"loss": 2.0})
    history.rounds = [
        record(0, True, [o.counted, o.counted, o.lost, o.late], {"loss": 1.0}, 2),
        record(1, False, [o.failed, o.refused, o.unwanted, o.counted], {}, 1),
    ]
    told = summary(history, ("loss", 1.0, 1))
    counts = {key.removeprefix("clients_"): told[key] for key in told if key.startswith("clients_")}
    assert counts == {
        "invited": 8,
        "counted": 3,
        "failed": 1,
        "refused": 1,
        "unwanted": 1,
        "late": 1,
        "lost": 1,
        "carried": 3,
    }
    assert (told["rounds"], told["rounds_failed"], told["parameters"]) == (2, 1, 6)
    assert (told["bytes_up"], told["bytes_down"], told["bytes_up_float32"]) == (20, 40, 60)
    assert told["metrics"] == {"loss": 1.0}  # of the last evaluation, not of the last round
    assert told["best"] == {"metric": "loss", "value": 1.0, "round": 1}
    assert told["model_sha256"] == digest(MODEL)
    assert (told["workload"], told["strategy"], told["seed"]) == ("Work", "FedAvg", 5)


def test_a_run_without_rounds_has_its_first_evaluation() -> None:
    told = summary(History({"loss": 2.0}))
    assert (told["rounds"], told["metrics"], told["best"], told["clients_invited"]) == (
        0,
        {"loss": 2.0},
        None,
        0,
    )


@pytest.mark.parametrize(
    ("metrics", "name"),
    [
        ({"loss": 1.0, "accuracy": 0.5}, "accuracy"),
        ({"loss": 1.0, "auc": 0.5}, "loss"),
        ({"f1": 1.0, "auc": 0.5}, "auc"),
        ({}, ""),
    ],
)
def test_the_headline_is_accuracy_then_loss_then_the_first(metrics: Metrics, name: str) -> None:
    assert headline(metrics) == name


@pytest.mark.parametrize(
    ("metric", "value", "best", "is_better"),
    [
        ("accuracy", 0.6, ("accuracy", 0.5, 1), True),
        ("accuracy", 0.5, ("accuracy", 0.5, 1), False),
        ("loss", 0.4, ("loss", 0.5, 1), True),
        ("test_loss", 0.6, ("test_loss", 0.5, 1), False),
        ("error_rate", 0.4, ("error_rate", 0.5, 1), True),
        ("accuracy", 0.1, ("loss", 0.5, 1), True),
        ("accuracy", 0.1, None, True),
        ("accuracy", math.nan, None, False),
        ("loss", math.nan, ("loss", 0.5, 1), False),
        ("loss", -math.inf, ("loss", 0.5, 1), False),
    ],
)
def test_better(metric: str, value: float, best: tuple[str, float, int] | None, is_better: bool) -> None:
    assert better(metric, value, best) is is_better


def test_losses_and_errors_fall() -> None:
    assert [lower_is_better(m) for m in ("loss", "train_loss", "error", "accuracy", "f1")] == [1, 1, 1, 0, 0]


def test_the_environment_is_text() -> None:
    found = environment()
    assert found["numpy"] == np.__version__
    assert all(isinstance(value, str) and value for value in found.values())
    assert {"fedkit", "torch", "python", "platform", "cores", "command"} <= found.keys()
