"""Observers that show a run: a progress bar, plain lines, JSON lines."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from fedkit.cli.output import echo_json
from fedkit.events import Evaluated, Replied, RoundEnded, RoundStarted, RunEnded, RunStarted
from fedkit.history import History, Outcome, RoundRecord
from fedkit.messages import Metrics
from fedkit.report.units import show_bytes, show_seconds, times


@dataclass
class _Totals:
    """Running totals of a run. clock: "virtual", or "wall" where devices take part."""

    clock: str = "virtual"
    up: int = 0
    down: int = 0
    up_float32: int = 0
    down_float32: int = 0
    counted: int = 0
    carried: int = 0
    gone: int = 0
    seconds: float = 0.0

    def of(self, history: History) -> _Totals:
        """These, with all rounds of a history."""
        for record in history.rounds:
            self.add(record)
        return self

    def add(self, record: RoundRecord) -> None:
        self.up += record.bytes_up
        self.down += record.bytes_down
        self.up_float32 += record.bytes_up_float32
        self.down_float32 += record.bytes_down_float32
        self.counted += record.count(Outcome.counted)
        self.carried += record.carried_in
        self.gone += record.missing
        self.seconds += record.virtual_end - record.virtual_start

    @property
    def text(self) -> str:
        clients = f"{self.counted} counted" + (f", {self.carried} carried in" if self.carried else "")
        clients += f", {self.gone} missing" if self.gone else ""
        up = f"{show_bytes(self.up)} up{_saved(self.up, self.up_float32)}"
        down = f"{show_bytes(self.down)} down{_saved(self.down, self.down_float32)}"
        seconds = show_seconds(self.seconds) + (" virtual" if self.clock == "virtual" else "")
        return f"{clients} · {up}, {down} · {seconds}"


def _saved(size: int, plain: int) -> str:
    """How many times smaller than float32, where a codec makes it so."""
    return f" ({times(plain / size)})" if size and plain >= 1.5 * size else ""


def show_metrics(metrics: Metrics) -> str:
    """`accuracy 0.934  loss 0.21`."""
    return "  ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items()))


def masked(record: RoundRecord) -> str:
    """How many updates a secure round summed, of how many; empty for any other round."""
    secure, wrong = record.secagg, ", NOT the plain sum"
    if secure is None or not record.ok:
        return ""
    checked = {True: ", equal to the plain sum", False: wrong, None: ""}[secure.verified]
    metrics = record.secagg_evaluate
    of_metrics = f"; that of metrics{wrong}" if metrics is not None and metrics.verified is False else ""
    return f"  secret sum of {record.count(Outcome.counted)}/{len(record.fates)}{checked}{of_metrics}"


class Lines:
    """Lines for output that is not a terminal: of a round, at most one in `every` seconds, and the last."""

    def __init__(self, console: Console, name: str, clock: str = "virtual", *, every: float = 1.0) -> None:
        self._console, self._name, self._every = console, name, every
        self._totals, self._rounds = _Totals(clock), 0
        self._last, self._waiting = -math.inf, ""

    def run_started(self, event: RunStarted) -> None:
        self._rounds, self._totals = event.rounds, _Totals(self._totals.clock).of(event.history)

    def round_ended(self, event: RoundEnded) -> None:
        record = event.record
        self._totals.add(record)
        result = show_metrics(record.metrics) if record.ok else f"failed: {record.reason}"
        result += masked(record)
        self._waiting = f"{self._name} round {record.round + 1}/{self._rounds}  {result}  {self._totals.text}"
        if time.monotonic() >= self._last + self._every:
            self.close()

    def close(self) -> None:
        """Print the line that was held back, if there is one."""
        if self._waiting:
            self._console.print(self._waiting, highlight=False, markup=False, emoji=False, soft_wrap=True)
            self._waiting, self._last = "", time.monotonic()


class _Display(Progress):
    """The bar, and a line of totals under it: together they fit 80 columns."""

    totals = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        if self.totals:
            yield Text(self.totals, style="dim", no_wrap=True, overflow="ellipsis")


class Bar:
    """A progress bar: round and metrics; below it the round under way and totals."""

    def __init__(self, console: Console, name: str, clock: str = "virtual") -> None:
        self._display = _Display(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}", style="green", markup=False),
            TimeElapsedColumn(),
            console=console,
        )
        self._name, self._totals, self._task = name, _Totals(clock), TaskID(0)

    def run_started(self, event: RunStarted) -> None:
        self._totals = _Totals(self._totals.clock).of(event.history)
        for task in self._display.task_ids:  # of a run that a full disk has interrupted
            self._display.remove_task(task)
        metrics = show_metrics(_last(event.history))
        done = len(event.history.rounds)
        self._task = self._display.add_task(self._name, total=event.rounds, completed=done, metrics=metrics)
        self._display.start()

    def replied(self, event: Replied) -> None:
        self._display.totals = f"now {event.counted}/{event.want} · {self._totals.text}"

    def round_ended(self, event: RoundEnded) -> None:
        record = event.record
        self._totals.add(record)
        self._display.totals = " · ".join(filter(None, (masked(record).strip(), self._totals.text)))
        self._display.update(self._task, completed=record.round + 1)
        if record.metrics:
            self._display.update(self._task, metrics=show_metrics(record.metrics))

    def close(self) -> None:
        """Leave the terminal as it was; safe to call twice."""
        self._display.stop()


def _last(history: History) -> Metrics:
    return next((r.metrics for r in reversed(history.rounds) if r.metrics), history.initial)


class Began:
    """Notes that the run has its folder to itself, and says where a resumed one stands."""

    def __init__(self, folder: Path, resume: bool) -> None:
        self._folder, self._resume = folder, resume
        self.folder_is_ours = False

    def run_started(self, event: RunStarted) -> None:
        self.folder_is_ours = True
        if self._resume:
            text = f"resuming {self._folder}: {len(event.history.rounds)} of {event.rounds} rounds are done"
            typer.echo(text, err=True)


class JsonLines:
    """Every event as one JSON object per line on stdout. `run` names the run when there are several."""

    def __init__(self, run: str = "") -> None:
        self._run = {"run": run} if run else {}

    def _say(self, event: str, **fields: object) -> None:
        echo_json({"event": event, **self._run, **fields})

    def run_started(self, event: RunStarted) -> None:
        self._say("run_started", job=event.job.id, rounds=event.rounds, done=len(event.history.rounds))

    def round_started(self, event: RoundStarted) -> None:
        plan = event.plan
        self._say("round_started", round=plan.round, cohort=list(plan.cohort), want=plan.want)

    def replied(self, event: Replied) -> None:
        fate: Mapping[str, object] = dataclasses.asdict(event.fate)
        self._say("replied", round=event.round, client=event.client, **fate, counted=event.counted)

    def evaluated(self, event: Evaluated) -> None:
        self._say("evaluated", rounds=event.rounds, metrics=dict(event.metrics))

    def round_ended(self, event: RoundEnded) -> None:
        self._say("round_ended", **dataclasses.asdict(event.record))

    def run_ended(self, event: RunEnded) -> None:
        self._say("run_ended", rounds=len(event.history.rounds), stopped=event.stopped)
