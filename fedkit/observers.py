"""Observers that a run can be given: early stopping and TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedkit.errors import ConfigError, nearest
from fedkit.events import RoundEnded, RunEnded, RunStarted
from fedkit.history import History, RoundRecord
from fedkit.summary import lower_is_better


@dataclass(frozen=True)
class EarlyStop:
    """Stops a run on an evaluation metric: `target` reached, or `patience` evaluations without gain.

    It keeps nothing between events: the answer follows from the history alone, so a resumed run
    stops at the same round. patience 0 never runs out. best "auto": losses and errors fall, everything
    else rises. Raises ConfigError when the run evaluates metrics, but not this one.
    """

    metric: str
    target: float | None = None
    patience: int = 0
    best: Literal["auto", "max", "min"] = "auto"

    def run_started(self, event: RunStarted) -> str:
        return self._why(event.history)

    def round_ended(self, event: RoundEnded) -> str:
        return self._why(event.history)

    def _why(self, history: History) -> str:
        self._check(history)
        falls = lower_is_better(self.metric) if self.best == "auto" else self.best == "min"
        sign, way = (-1.0, "lower is better") if falls else (1.0, "higher is better")
        top, since = float("-inf"), 0
        for _, value in history.series(self.metric):
            if self.target is not None and sign * value >= sign * self.target:
                return f"{self.metric} reached {value:.4g}, the target is {self.target:g} ({way})"
            top, since = (sign * value, 0) if sign * value > top else (top, since + 1)
        if self.patience and since >= self.patience:
            return f"{self.metric} has not improved on {sign * top:.4g} in {since} evaluations ({way})"
        return ""

    def _check(self, history: History) -> None:
        found = history.rounds[-1].metrics if history.rounds else history.initial
        if found and self.metric not in found:
            raise ConfigError(
                f"stop.metric: the run has no metric {self.metric!r}; {nearest(self.metric, found)}"
            )


class TensorBoard:
    """Writes metrics, bytes and client counts of every round as TensorBoard scalars.

    Raises ConfigError when tensorboard or torch is not installed.
    """

    def __init__(self, logdir: Path | str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                f"TensorBoard needs {error.name or 'tensorboard'}: pip install 'fedkit[torch,tensorboard]'"
            ) from error
        self._kind: Any = SummaryWriter
        self._logdir = str(logdir)
        self._writer: Any = None

    def run_started(self, event: RunStarted) -> None:
        self._writer = self._kind(self._logdir)  # not before: a run wants its folder empty when it starts
        for name, value in event.history.initial.items():
            self._writer.add_scalar(f"evaluation/{name}", value, 0)

    def round_ended(self, event: RoundEnded) -> None:
        for name, value in _scalars(event.record):
            self._writer.add_scalar(name, value, event.record.round + 1)

    def run_ended(self, event: RunEnded) -> None:
        self._writer.close()


def _scalars(record: RoundRecord) -> Iterator[tuple[str, float]]:
    for name, value in record.metrics.items():
        yield f"evaluation/{name}", value
    yield "bytes/up", record.bytes_up
    yield "bytes/down", record.bytes_down
    yield "seconds/virtual", record.virtual_end - record.virtual_start
    for name, value in record.train.items():
        yield f"train/{name}", value
    for outcome in sorted({fate.outcome for fate in record.fates.values()}):
        yield f"clients/{outcome.value}", record.count(outcome)
