"""How a model is measured, and that clients sum their metrics of one model once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedkit import RoundPolicy, run
from fedkit.aggregate import Grid
from fedkit.codecs.none import Plain
from fedkit.collect import Collected
from fedkit.history import History, RoundRecord, SecureRecord
from fedkit.job import Job
from fedkit.measuring import Measured, measured_before, of_clients
from fedkit.messages import Pass, Task, Trained
from fedkit.secagg.parameters import Policy
from fedkit.secagg.settings import SecAgg
from fedkit.tensors import Layout, Tensors
from fedkit.trainer import Correct
from fedkit_simulations.engine import Simulation
from fedkit_strategies import FedAvg

SECRET = SecAgg(Policy(dropout=0.0), width=64, verify=True)
NOTHING = Layout((), (), ())
JOB = Job(FedAvg(), Plain(), Plain(), NOTHING, NOTHING, Grid(), {}, 0, secagg=SECRET)
SECURE = SecureRecord("lying_server", "aes", "roster", 64, {}, 2, 2, 1, 1, (), {}, 0, 0, 0.0, 0.0, True, ())
RECORD = RoundRecord(0, True, "", {}, {}, 1.0, {}, {}, 0, 0, 0, 0.0, 1.0, 0.0)
SUMMED, FAILED = replace(RECORD, secagg_evaluate=SECURE), replace(RECORD, ok=False)


@pytest.mark.parametrize(
    ("rounds", "before"),
    [
        ([], True),  # before the first round
        ([FAILED], True),
        ([RECORD], False),
        ([SUMMED], True),
        ([SUMMED, FAILED, FAILED], True),
        ([SUMMED, RECORD], False),
        ([RECORD, replace(SUMMED, ok=False)], True),
    ],
)
def test_whether_the_present_model_was_measured(rounds: list[RoundRecord], before: bool) -> None:
    assert measured_before(JOB, History(rounds=rounds)) is before
    assert not measured_before(replace(JOB, secagg=None), History(rounds=rounds))


def test_an_aborted_sum_is_told_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    got = Collected(JOB.zero(), aborted="secure aggregation aborted: x", secagg=SECURE)
    assert of_clients(got, 3) == Measured({}, SECURE, "secure aggregation aborted: x")
    assert "after 3 rounds the clients' metrics are not known: secure aggregation aborted: x" in caplog.text


class Client:
    """Its loss is its own number; it trains in even rounds only."""

    def __init__(self, number: int) -> None:
        self.number, self.examples = number, 10

    def train(self, pass_: Pass, task: Task, correct: Correct | None) -> Trained:
        if task.key.round % 2:
            raise RuntimeError
        return Trained({"w": np.ones(3, np.float32)}, 1, 10.0, {"loss": 1.0})

    def evaluate(self, model: Tensors) -> tuple[dict[str, float], int]:
        return {"loss": float(self.number)}, 10


class Work:
    def init(self, seed: int) -> Tensors:
        return {"w": np.zeros(3, np.float32)}

    def clients(self) -> list[str]:
        return list("abcdef")

    def trainer(self, client: str) -> Client:
        return Client(ord(client) if client != "f" else 0)

    def evaluate(self, model: Tensors) -> dict[str, float]:
        return {}


def go(secagg: SecAgg | str, rounds: int = 3, **policy: int) -> History:
    many = RoundPolicy(max_failures=9, **policy)  # type: ignore[arg-type]
    return run(
        "fedavg", Work(), Simulation(Work()), rounds=rounds, secagg=secagg, policy=many,
        evaluate_on="clients",
    ).history  # fmt: skip


def test_a_model_that_has_not_moved_is_not_measured_again_in_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sums, the second without one client, would tell an honest server that client's metrics."""
    monkeypatch.setattr("fedkit.loop.fatal_cause", lambda got, fewest: "")
    rounds = go(SECRET).rounds
    assert [record.ok for record in rounds] == [True, False, True]
    assert [bool(record.metrics) for record in rounds] == [True, False, True]
    assert [record.secagg_evaluate is not None for record in rounds] == [True, False, True]
    assert [bool(record.metrics) for record in go("off").rounds] == [True, True, True]


def test_sums_of_metrics_are_recorded_and_verified() -> None:
    history = go(SECRET, 1)
    (record,) = history.rounds
    secure = record.secagg_evaluate
    assert secure is not None
    assert secure.verified
    assert secure.reached["unmask"] == 6
    assert record.secure == (record.secagg, secure)
    assert RoundRecord.from_json(record.to_json()) == record


def test_a_run_whose_first_sum_of_metrics_aborts_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And not that there is no test data."""
    monkeypatch.setattr(Client, "evaluate", lambda self, model: (_ for _ in ()).throw(OSError("no disk")))
    history = go(SECRET, 1)
    assert history.rounds[0].secagg_evaluate is not None
    assert history.rounds[0].secagg_evaluate.aborts
    assert "after 0 rounds the clients' metrics are not known: secure aggregation aborted" in caplog.text
    assert "after 1 rounds" in caplog.text
    assert "no test data" not in caplog.text
