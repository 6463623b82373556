"""The figures of a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest

from fedkit import plugins
from fedkit.aggregate import Grid
from fedkit.history import Carried, Fate, History, Outcome, RoundRecord, SecureRecord
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


def summary(
    history: History,
    best: tuple[str, float, int] | None = None,
    up_spec: str = "none",
    down_spec: str = "none",
    feedback: bool = False,
) -> dict[str, object]:
    layout = Layout(("w",), ((2, 3),), ("float32",))
    up, down = plugins.codec(up_spec), plugins.codec(down_spec, "down")
    job = Job(FedAvg(), up, down, layout, Layout((), (), ()), Grid(), {}, 0, feedback=feedback)
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


def test_what_was_decided_about_codecs_is_told() -> None:
    told = summary(History(), None, "auto", "auto", feedback=True)
    assert told["codec"] == {
        "up": plugins.codec("auto").spec,
        "down": plugins.codec("auto", "down").spec,
        "feedback": True,
        "down_base": "last",
        "rungs": None,
    }
    plain = {"up": "none/1", "down": "none/1", "feedback": False, "down_base": None, "rungs": None}
    assert summary(History())["codec"] == plain


def test_rungs_are_summed_over_rounds_the_longest_first() -> None:
    one, two, three = (record(i, True, [Outcome.counted], {}, 0) for i in range(3))
    history = History()
    history.rounds = [
        dataclasses.replace(one, rungs={"ecsq:delta=4": 2}),
        dataclasses.replace(two, rungs={"bfloat16:mode=stoch": 1, "ecsq:delta=4": 1}),
        three,
    ]
    told = summary(history, None, "adaptive")["codec"]
    assert isinstance(told, dict)
    assert list(told["rungs"].items()) == [("bfloat16:mode=stoch", 1), ("ecsq:delta=4", 3)]


def test_ratios_and_the_bytes_until_the_best() -> None:
    history = History({"loss": 2.0})
    history.rounds = [
        dataclasses.replace(record(i, True, [Outcome.counted], {}, 0), bytes_down_float32=50)
        for i in range(4)
    ]
    told = summary(history, ("loss", 1.0, 3))
    assert (told["ratio_up"], told["ratio_down"], told["ratio"]) == (3.0, 2.5, 80 / 30)
    assert told["bytes_to_best"] == 3 * 30
    assert summary(history, ("loss", 2.0, 0))["bytes_to_best"] == 0
    assert summary(history)["bytes_to_best"] is None


def test_where_nothing_was_sent_there_is_no_ratio() -> None:
    told = summary(History())
    assert (told["ratio_up"], told["ratio_down"], told["ratio"]) == (None, None, None)


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


def test_secure_rounds_are_added_up_and_stages_stand_in_their_order() -> None:
    base = SecureRecord("m", "s", "roster", 32, {}, 4, 3, 1, 1, (), {}, 10, 20, 0.5, 0.25, True, ())
    other = dataclasses.replace(
        base, attempts=2, aborts=("why",), lost={"unmask": ("a",), "share": ("b", "c")}, verified=False
    )
    none = record(0, True, [], {}, 0)
    rounds = [dataclasses.replace(none, secagg=secure) for secure in (base, other)]
    assert summary(History({}, [none]))["secagg"] is None
    told = summary(History({}, [none, *rounds]))["secagg"]
    assert isinstance(told, dict)
    assert told == {
        "mode": "m",
        "identities": "roster",
        "sessions": 3,
        "aborted": 1,
        "lost": {"share": 2, "unmask": 1},
        "bytes_up": 20,
        "bytes_down": 40,
        "quarantined": [],
        "verified": 1,
        "not_verified": 1,
    }
    assert list(told["lost"]) == ["share", "unmask"]
    unseen = dataclasses.replace(none, secagg=dataclasses.replace(base, verified=None))
    said = summary(History({}, [unseen]))["secagg"]
    assert isinstance(said, dict)
    assert said["verified"] is None
