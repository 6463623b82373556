"""Observers: early stopping follows from the history alone; TensorBoard scalars."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.aggregate import Grid
from fedkit.codecs.none import Plain
from fedkit.errors import ConfigError
from fedkit.events import RoundEnded, RunEnded, RunStarted
from fedkit.history import Fate, History, Outcome, RoundRecord
from fedkit.job import Job
from fedkit.observers import EarlyStop, TensorBoard
from fedkit.tensors import Layout
from fedkit_strategies.fedavg import FedAvg


def _record(round: int, **metrics: float) -> RoundRecord:
    fates = {"a": Fate(Outcome.counted), "b": Fate(Outcome.lost)}
    return RoundRecord(round, True, "", fates, {}, 1.0, {"loss": 0.5}, metrics, 10, 20, 40, 0.0, 2.0, 0.1)


def _history(*values: float | None) -> History:
    """The first value is the evaluation before round 0; None is a round without evaluation."""
    first, *rest = values
    rounds = [_record(i, **({} if v is None else {"accuracy": v})) for i, v in enumerate(rest)]
    return History({} if first is None else {"accuracy": first}, rounds)


def _ended(history: History) -> RoundEnded:
    return RoundEnded(history.rounds[-1], history)


def test_the_target_stops_the_run() -> None:
    stop = EarlyStop("accuracy", target=0.9)
    assert stop.round_ended(_ended(_history(0.1, 0.5, 0.89))) == ""
    assert stop.round_ended(_ended(_history(0.1, 0.5, 0.9))) == (
        "accuracy reached 0.9, the target is 0.9 (higher is better)"
    )


def test_a_target_to_fall_to() -> None:
    stop = EarlyStop("accuracy", target=0.2, best="min")
    assert stop.round_ended(_ended(_history(0.9, 0.3))) == ""
    assert "reached 0.1" in stop.round_ended(_ended(_history(0.9, 0.1)))


def test_patience_counts_evaluations_without_gain() -> None:
    stop = EarlyStop("accuracy", patience=2)
    assert stop.round_ended(_ended(_history(0.1, 0.5, 0.4))) == ""
    assert stop.round_ended(_ended(_history(0.1, 0.5, 0.4, None))) == ""
    answer = stop.round_ended(_ended(_history(0.1, 0.5, 0.4, None, 0.5)))
    assert answer == "accuracy has not improved on 0.5 in 2 evaluations (higher is better)"
    assert EarlyStop("accuracy").round_ended(_ended(_history(0.5, 0.4, 0.3))) == ""


def test_a_loss_falls_unless_it_is_said_to_rise() -> None:
    history = History({"loss": 2.0}, [_record(0, loss=0.5), _record(1, loss=0.6), _record(2, loss=0.7)])
    assert EarlyStop("loss", target=0.55).round_ended(_ended(history)) == (
        "loss reached 0.5, the target is 0.55 (lower is better)"
    )
    assert EarlyStop("loss", target=0.4).round_ended(_ended(history)) == ""
    answer = EarlyStop("loss", patience=2).round_ended(_ended(history))
    assert answer == "loss has not improved on 0.5 in 2 evaluations (lower is better)"
    answer = EarlyStop("loss", target=1.5, best="max").round_ended(_ended(history))
    assert answer == "loss reached 2, the target is 1.5 (higher is better)"


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.integers(1, 3))
def test_a_resumed_run_stops_at_the_same_round(values: list[float], patience: int) -> None:
    whole = [
        EarlyStop("accuracy", 0.95, patience).round_ended(_ended(_history(*values[:n]))) for n in range(2, 13)
    ]
    job = _job()
    for n in range(2, len(values) + 1):
        resumed = EarlyStop("accuracy", 0.95, patience)
        assert resumed.run_started(RunStarted(job, 99, _history(*values[:n]))) == whole[n - 2]


def test_a_metric_that_the_run_does_not_have_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"stop.metric: the run has no metric 'acuracy'; did you mean 'accuracy'"
    ):
        EarlyStop("acuracy", 0.9).run_started(RunStarted(_job(), 5, _history(0.1)))


def _job() -> Job:
    layout = Layout.of({"w": np.zeros(2, np.float32)})
    return Job(FedAvg(), Plain(), Plain(), layout, Layout((), (), ()), Grid(), {}, 0)


def test_tensorboard_writes_scalars_once_the_run_has_started(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("tensorboard")
    board = TensorBoard(tmp_path / "tb")
    assert not (tmp_path / "tb").exists()
    history = _history(0.1, 0.5)
    board.run_started(RunStarted(_job(), 1, history))
    board.round_ended(_ended(history))
    board.run_ended(RunEnded(history, {}, ""))

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [(e.step, round(e.value, 6)) for e in events.Scalars("evaluation/accuracy")] == [
        (0, 0.1),
        (1, 0.5),
    ]
    assert events.Scalars("bytes/up")[0].value == 10
    assert events.Scalars("clients/lost")[0].value == 1


def test_tensorboard_that_is_not_installed_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'fedkit\[torch,tensorboard\]'"):
        TensorBoard(tmp_path)
