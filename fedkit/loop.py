"""The training loop: plan, collect, step, evaluate, checkpoint, settle."""

from __future__ import annotations

import logging
import time
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from fedkit.aggregate import WeightedSum
from fedkit.checkpoint import Checkpoint
from fedkit.codecs import CodecContext
from fedkit.collect import (
    Collected,
    Collector,
    carried_fates,
    counted_replies,
    fatal_cause,
    verdicts,
    why_failed,
)
from fedkit.downlink import Downlink, Release
from fedkit.dressing import codec_context, next_scale
from fedkit.errors import LayoutError, RunFailed
from fedkit.events import Evaluated, Event, Replied, RoundEnded, RoundStarted, RunEnded, RunStarted, emit
from fedkit.federation import Federation, Plan, RoundPolicy, Traffic, Verdict
from fedkit.history import Fate, History, Outcome, RoundRecord
from fedkit.job import Job
from fedkit.journal import Journal
from fedkit.messages import SCALE, ClientId, Failure, Key, Kind, Metrics, Task
from fedkit.planning import make_plan, train_seed
from fedkit.summary import better, headline, summarise
from fedkit.tensors import Flat, Layout, State, Tensors
from fedkit.trainer import Workload

log = logging.getLogger("fedkit")


class Loop:
    """The state of a run between rounds; `_round` is one turn."""

    evaluate_every = 1
    evaluate_on: Literal["server", "clients"] = "server"

    def __init__(
        self,
        job: Job,
        workload: Workload,
        federation: Federation,
        base: Tensors,
        policy: RoundPolicy,
        seed: int,
        observers: Sequence[object],
        journal: Journal,
    ) -> None:
        self.job, self.workload, self.federation, self.base = job, workload, federation, base
        self.policy, self.seed, self.observers, self.journal = policy, seed, observers, journal
        self.model: Tensors = pick(base, job.layout)
        self.state: State = job.strategy.init(self.model)
        self.downlink = Downlink(job.codec_down, job.layout, job.model_seed, job.down_base)
        self.scale, self.scales = 0.0, dict[int, float]()
        self.history = History()
        self.open: dict[Key, float] = {}
        self.verdicts: dict[Key, Verdict] = {}
        self.best: tuple[str, float, int] | None = None
        self.stopped = ""
        self.release: Release
        self._title = type(workload).__name__
        self._wall = 0.0
        self._began = time.perf_counter()

    @property
    def whole(self) -> Tensors:
        """The model with its buffers and frozen weights, in the workload's own order."""
        return {name: self.model.get(name, array) for name, array in self.base.items()}

    def go(self, rounds: int, resume: bool, scenario: str) -> dict[str, Any]:
        """Begin or continue, turn the loop, leave the folder complete whatever happens."""
        self._title = tomllib.loads(scenario).get("workload", self._title)
        self.federation.open(self.job)
        resumed = resume and self._resume()
        if not resumed:
            self.journal.describe(self.workload, scenario)
            self._publish()
            self.history.initial = self._measure(0)
            self._checkpoint()
        if not self.history.initial:
            log.warning(
                "nothing will be evaluated: the workload has no test data; give it some, or set "
                "evaluate_on to 'clients'"
            )
        self._tell(RunStarted(self.job, rounds, self.history))
        if not resumed:
            self._tell(Evaluated(0, self.history.initial, self.whole, self.history))
        try:
            while len(self.history.rounds) < rounds and not self.stopped:
                self._round(len(self.history.rounds), rounds)
            self._demand_success()
        except BaseException as error:
            self._leave("failed" if isinstance(error, Exception) else "interrupted", str(error))
            raise
        summary = self._leave("done", "")
        self._tell(RunEnded(self.history, self.whole, self.stopped))
        return summary

    def _round(self, number: int, rounds: int) -> None:
        began, traffic = time.perf_counter(), self.federation.traffic()
        plan = self._plan(number)
        self._tell(RoundStarted(plan))
        got = self._collect(plan, "train", self.job.zero())
        reason, fatal = why_failed(got, plan), fatal_cause(got)
        reason = reason or self._step(got.total, number)
        self.verdicts = verdicts(got, not reason)
        if self.evaluate_on == "clients":  # or those without a verdict would train on meanwhile
            rolled_back = {k: v for k, v in self.verdicts.items() if v is not Verdict.counted}
            self.federation.settle(rolled_back)
        due = (number + 1) % self.evaluate_every == 0 or number + 1 == rounds
        metrics = self._evaluate(number + 1) if due and not fatal else {}
        record = self._record(plan, got, reason, metrics, traffic, time.perf_counter() - began)
        self._close(plan, got, record)
        self._tell(RoundEnded(record, self.history))
        if fatal:
            raise RunFailed(fatal)
        self._stop_if_hopeless(reason)

    def _plan(self, number: int) -> Plan:
        reachable, now = self.federation.clients(), self.federation.now()
        return self.journal.plan(make_plan(self.policy, reachable, self.open, number, now, self.seed))

    def _collect(self, plan: Plan, kind: Kind, zero: WeightedSum) -> Collected:
        """Send the plan's tasks, all from one model, and judge the replies."""
        strategy, carries = self.job.strategy, self.policy.carry_rounds if self.policy.late == "carry" else 0
        version, model = self.release.version, self.release.model
        settings = {**self.job.settings, **strategy.settings(self.state, plan.round)}
        if self.job.codec_up.ring:
            settings[SCALE] = self.scales[plan.round] = self.scale
        context = strategy.context(self.state) if kind == "train" else {}
        expires = self._expiry(plan) if carries else plan.deadline
        tasks = {}
        for client in plan.cohort:
            key = Key(self.job.id, plan.round, kind, "", 0, client)
            seed = plan.seeds[client]
            tasks[key] = Task(key, version, model, context, settings, seed, 1.0, expires, "", plan.deadline)

        def notify(client: ClientId, fate: Fate, counted: int, failure: Failure | None) -> None:
            if kind == "train":
                self._tell(Replied(plan.round, client, fate, counted, plan.want, failure))

        def context_of(key: Key) -> CodecContext:
            now = key.round == plan.round
            seed = plan.seeds[key.client] if now else train_seed(self.seed, key.round, key.client)
            return codec_context(self.job, key.round, seed, self.scales.get(key.round, 0.0))

        return Collector(self.federation, self.job, plan, context_of, zero, carries, notify).run(tasks)

    def _expiry(self, plan: Plan) -> float:
        return plan.deadline + self.policy.carry_rounds * self.policy.deadline

    def _publish(self) -> None:
        """Make the model's next version known; clients train from it."""
        self.release = self.downlink.publish(self.model)
        self.federation.publish(self.release)

    def _step(self, total: WeightedSum, round: int) -> str:
        """Move the model; if it cannot be moved it stays as it was, and the reason is returned."""
        name = type(self.job.strategy).__name__
        moved = self.job.strategy.step(self.model, self.state, total)
        if not (isinstance(moved, tuple) and len(moved) == 2):
            raise RunFailed(f"{name}.step returned a {type(moved).__name__}, not (model, state)")
        model, state = moved
        try:
            vector = self.job.layout.flatten(model)
        except LayoutError as error:
            raise RunFailed(f"{name}.step made another model: {error}") from error
        finite = np.isfinite(vector)
        if not finite.all():
            where = self.job.layout.locate(int(np.argmin(finite)))
            return (
                f"{name}.step made a model that is not finite in tensor {where!r}: lower the learning rate "
                "of the strategy or of [train]"
            )
        self.model, self.state = self.job.layout.view(vector), state
        self.scale = next_scale(self.job, total, codec_context(self.job, round, 0, self.scale))
        self._publish()
        return ""

    def _evaluate(self, rounds: int) -> Metrics:
        metrics = self._measure(rounds)
        self._tell(Evaluated(rounds, metrics, self.whole, self.history))
        return metrics

    def _measure(self, rounds: int) -> Metrics:
        """Metrics of the model, on the server's data or the clients'; keeps the best model."""
        if self.evaluate_on == "clients":
            metrics = self._ask_clients(rounds)
        else:
            found = self.workload.evaluate(self.whole)
            metrics = {name: float(value) for name, value in found.items()}  # numpy's are no JSON
        name = headline(metrics)
        if name and better(name, metrics[name], self.best):
            self.best = (name, metrics[name], rounds)
            self.journal.model("best.safetensors", self.whole)
        return metrics

    def _ask_clients(self, rounds: int) -> Metrics:
        """Weighted mean of the clients' own metrics, over a cohort drawn for it."""
        reachable, now = self.federation.clients(), self.federation.now()
        policy = replace(self.policy, over_select=1.0)
        plan = make_plan(policy, reachable, {}, rounds, now, self.seed, "evaluate")
        got = self._collect(plan, "evaluate", WeightedSum(_NOTHING, self.job.grid))
        self.federation.settle(got.verdicts)
        return dict(got.total.metrics)

    def _record(
        self, plan: Plan, got: Collected, reason: str, metrics: Metrics, before: Traffic, wall: float
    ) -> RoundRecord:
        after = self.federation.traffic()
        return RoundRecord(
            round=plan.round,
            ok=not reason,
            reason=reason,
            fates=got.fates,
            carried=carried_fates(got, not reason),
            weight=got.total.weight,
            train=dict(got.total.metrics),
            metrics=metrics,
            bytes_up=after.up - before.up,
            bytes_down=after.down - before.down,
            bytes_up_float32=4 * self.job.layout.size * counted_replies(got),
            bytes_down_float32=4 * self.job.layout.size * len(plan.cohort),
            virtual_start=plan.start,
            virtual_end=self.federation.now(),
            wall_seconds=wall,
        )

    def _close(self, plan: Plan, got: Collected, record: RoundRecord) -> None:
        """Record and checkpoint the round, then let clients know what became of their updates."""
        self.open = {key: plan.carried.get(key, self._expiry(plan)) for key in got.open}
        still = {key.round for key in self.open}
        self.scales = {round: scale for round, scale in self.scales.items() if round in still}
        self.history.rounds.append(record)
        self.journal.record(record)
        self._checkpoint()
        self.federation.settle(self.verdicts)

    def _demand_success(self) -> None:
        """A run in which no round succeeded has failed, however few rounds it had."""
        done = self.history.rounds
        if done and not any(record.ok for record in done):
            raise RunFailed(
                f"none of {len(done)} rounds succeeded; the last failed because {done[-1].reason}"
                f"{_example(done[-1])}"
            )

    def _stop_if_hopeless(self, reason: str) -> None:
        failures = self.history.failures_in_a_row
        if failures >= self.policy.max_failures:
            last = self.history.rounds[-1]
            missing = last.count(Outcome.lost) + last.count(Outcome.late)
            advice = "; lower rounds.quorum, raise rounds.deadline or rounds.over_select, or allow more with "
            raise RunFailed(
                f"{failures} rounds in a row have failed, the last because {reason}{_example(last)}"
                f"{advice + 'rounds.max_failures' if missing else ''}"
            )

    def _tell(self, event: Event) -> None:
        self.stopped = emit(self.observers, event) or self.stopped

    def _resume(self) -> bool:
        """Take up the run where its last checkpoint left it; False if there is none."""
        found = self.journal.resume()
        if found is None:
            return False
        point, self.history = found
        self.model = pick(point.model, self.job.layout)
        self.state, self.best, self._wall = point.state, point.best, point.wall_seconds
        self.open = dict(point.open)
        self.verdicts = {key: Verdict(verdict) for key, verdict in point.verdicts.items()}
        self.scale, self.scales = point.scale, dict(point.scales)
        self.downlink.load(point.downlink)
        self.federation.load(point.federation)
        self.release = self.downlink.current(self.model)
        self.federation.publish(self.release)
        self.federation.settle(self.verdicts)
        return True

    def _checkpoint(self) -> None:
        point = Checkpoint(
            self.job.id,
            len(self.history.rounds),
            self.model,
            self.state,
            self.federation.save(),
            self.downlink.save(),
            self.history.initial,
            self.open,
            self.verdicts,
            self.best,
            self._seconds(),
            self.scale,
            self.scales,
        )
        self.journal.checkpoint(point)

    def _seconds(self) -> float:
        return self._wall + time.perf_counter() - self._began

    def _leave(self, status: str, error: str) -> dict[str, Any]:
        """Write the last model and the summary."""
        rounds = self.history.rounds
        virtual = rounds[-1].virtual_end - rounds[0].virtual_start if rounds else 0.0
        summary = summarise(self.job, self._title, self.seed, self.whole, self.history, self.best)
        summary |= {"status": status, "error": error, "stopped": self.stopped}
        summary |= {"wall_seconds": round(self._seconds(), 3), "virtual_seconds": virtual}
        self.journal.model("last.safetensors", self.whole)
        self.journal.summary(summary)
        return summary


_NOTHING = Layout((), (), ())


def pick(model: Tensors, layout: Layout) -> Flat:
    """The part of `model` in `layout`, as one fresh vector."""
    return layout.view(np.array(layout.flatten({name: model[name] for name in layout.names})))


def _example(record: RoundRecord) -> str:
    """One of the clients that were not counted, and why."""
    for client, fate in record.fates.items():
        if fate.outcome is not Outcome.counted:
            return f" (client {client!r} {fate.outcome.value}: {fate.why})"
    return ""
