"""The training loop: plan, collect, step, evaluate, checkpoint, settle."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from fedkit.aggregate import WeightedSum
from fedkit.asking import make_tasks
from fedkit.checkpoint import Checkpoint
from fedkit.codecs import CodecContext
from fedkit.collect import Collected, Collector
from fedkit.downlink import Downlink, Release
from fedkit.dressing import codec_context, next_scale
from fedkit.ending import fewest_to_end, why_fruitless, why_hopeless
from fedkit.errors import ConfigError, FedkitError, LayoutError, RunFailed
from fedkit.events import Evaluated, Event, Replied, RoundEnded, RoundStarted, RunEnded, RunStarted, emit
from fedkit.federation import Federation, Plan, RoundPolicy, Verdict, pause
from fedkit.history import Fate, History, RoundRecord
from fedkit.job import Job
from fedkit.journal import Journal
from fedkit.judging import fatal_cause, make_record, verdicts, why_failed
from fedkit.measuring import NOTHING, Measured, measured_before, of_clients, on_server
from fedkit.messages import ClientId, Failure, Key, Kind
from fedkit.planning import make_plan, train_seed
from fedkit.quarantine import Quarantine
from fedkit.secure import SecureCollector
from fedkit.stepping import step
from fedkit.summary import better, headline, summarise
from fedkit.sums import once
from fedkit.tensors import Layout, State, Tensors, pick, sealed, sealed_copy
from fedkit.trainer import Workload
from fedkit.usercode import called, returned_state

log = logging.getLogger("fedkit")


class Loop:
    """The state of a run between rounds; `_round` is one turn.

    base: the whole initial model. clients: all that are registered. Whatever others are handed (model,
    state, base) is read-only: what they would change in place would be changed for everybody.
    """

    evaluate_every = 1
    evaluate_on: Literal["server", "clients"] = "server"
    clients: Sequence[ClientId] = ()
    title = ""

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
        with called(f"{self._name}.init", ConfigError):
            state = job.strategy.init(self.model)
        self.state: State = returned_state(state, f"{self._name}.init", ConfigError)
        self.downlink = Downlink(job.codec_down, job.layout, job.model_seed, job.down_base)
        self.scale, self.scales = 0.0, dict[int, float]()
        self.history = History()
        self.open: dict[Key, float] = {}
        self.verdicts: dict[Key, Verdict] = {}
        self.quarantine = Quarantine(journal, {})
        self.best: tuple[str, float, int] | None = None
        self.stopped = ""
        self.release: Release
        self._wall, self._began = 0.0, time.perf_counter()

    @property
    def _name(self) -> str:
        return f"strategy {type(self.job.strategy).__name__}"

    @property
    def whole(self) -> Tensors:
        """The model with its buffers and frozen weights, in the workload's own order."""
        return {name: self.model.get(name, array) for name, array in self.base.items()}

    def go(self, rounds: int, resume: bool, scenario: str) -> dict[str, Any]:
        """Begin or continue, turn the loop, leave the folder complete whatever happens."""
        resumed = self._begin(resume, scenario)
        try:
            self._summarise("running")
            self._tell(RunStarted(self.job, rounds, self.history))
            if not resumed:
                self._tell(Evaluated(0, self.history.initial, self.whole, self.history))
            self._demand_hope()
            while len(self.history.rounds) < rounds and not self.stopped:
                self._round(len(self.history.rounds), rounds)
            if why := why_fruitless(self.history):
                raise RunFailed(why)
        except BaseException as error:
            self._leave_after(error)
            raise
        summary = self._leave("done")
        self._tell(RunEnded(self.history, self.whole, self.stopped))
        return summary

    def _begin(self, resume: bool, scenario: str) -> bool:
        """Take up the run where its last checkpoint left it, else write the first; whether it was taken up.

        Until a folder is known to be of this run, nothing in it is changed.
        """
        found = self.journal.resume() if resume else None
        self.quarantine = Quarantine(self.journal, self.journal.quarantined())
        if found is None:
            self.journal.describe(self.workload, scenario)
        self.federation.open(self.job)
        if found is not None:
            self._take_up(*found)
            return True
        self._publish(self.downlink.publish(self.model))
        measured = self._measure(0)
        self.history.initial, self.history.initial_secagg = measured.metrics, measured.secagg
        self._checkpoint()
        if not (measured.metrics or measured.aborted):
            log.warning(NOTHING)
        return False

    def _round(self, number: int, rounds: int) -> None:
        began, traffic = time.perf_counter(), self.federation.traffic()
        plan = self._plan(number)
        self._tell(RoundStarted(plan))
        got = self._collect(plan, "train", self.job.zero())
        reason = why_failed(got, plan) or self._step(got.total, number)
        self.verdicts = verdicts(got, not reason)
        if self.evaluate_on == "clients":  # or those without a verdict would train on meanwhile
            self.federation.settle({k: v for k, v in self.verdicts.items() if v is not Verdict.counted})
        due = (number + 1) % self.evaluate_every == 0 or number + 1 == rounds
        fatal = fatal_cause(got, fewest_to_end(self.federation, len(self.clients)))
        measured = self._evaluate(number + 1, not reason) if due and not fatal else Measured({})
        spent, wall = self.federation.traffic() - traffic, time.perf_counter() - began
        record = make_record(self.job, plan, got, reason, measured, spent, self.federation.now(), wall, fatal)
        self._close(plan, got, record)
        self._tell(RoundEnded(record, self.history))
        self._demand_hope()
        if number + 1 < rounds and not self.stopped:
            pause(self.federation, self.history.failures_in_a_row, reason)

    def _plan(self, number: int) -> Plan:
        reachable = self._reachable()  # this may wait for clients: the round begins when they are there
        fresh = make_plan(self.policy, reachable, self.open, number, self.federation.now(), self.seed)
        return self.journal.plan(fresh, None if getattr(self.workload, "enrolled_by", "") else self.clients)

    def _reachable(self) -> list[ClientId]:
        """Whom a round may ask: not those that contradicted themselves in a secure session."""
        return [client for client in self.federation.clients() if client not in self.quarantine.clients]

    def _collect(self, plan: Plan, kind: Kind, zero: WeightedSum) -> Collected:
        """Send the plan's tasks, all from one model, and judge the replies."""
        carries = self.policy.carry_rounds if self.policy.late == "carry" else 0
        expires = self._expiry(plan) if carries else plan.deadline
        self.scales[plan.round] = self.scale
        tasks = make_tasks(self.job, plan, kind, self.release, self.state, self.scale, expires)

        def notify(client: ClientId, fate: Fate, counted: int, failure: Failure | None) -> None:
            if kind == "train":
                self._tell(Replied(plan.round, client, fate, counted, plan.want, failure))

        def context_of(key: Key) -> CodecContext:
            now = key.round == plan.round
            seed = plan.seeds[key.client] if now else train_seed(self.seed, key.round, key.client)
            return codec_context(self.job, key.round, seed, self.scales.get(key.round, 0.0))

        if self.job.secagg is not None:
            journal, ctx = self.journal, codec_context(self.job, plan.round, 0, self.scale)
            both = (self.federation, self.job, self.job.secagg, plan, ctx, zero, notify)
            made = SecureCollector(*both, journal.session, self.quarantine)
            return once(made.run, journal, self.federation, (self.job, plan, zero, notify), tasks)
        return Collector(self.federation, self.job, plan, context_of, zero, carries, notify).run(tasks)

    def _expiry(self, plan: Plan) -> float:
        return plan.deadline + self.policy.carry_rounds * self.policy.deadline

    def _publish(self, release: Release) -> None:
        """Make a version of the model known; clients train from it."""
        self.release = release._replace(model=sealed(release.model))
        self.federation.publish(self.release)

    def _step(self, total: WeightedSum, round: int) -> str:
        """Move the model; if it cannot be moved it stays as it was, and the reason is returned."""
        model, state, why = step(self.job, self.model, self.state, total)
        if why:
            return why
        try:
            release = self.downlink.publish(model)
        except (LayoutError, RunFailed) as error:
            return f"the new model cannot be sent: {error}"
        self.model, self.state = model, state
        self.scale = next_scale(self.job, total, codec_context(self.job, round, 0, self.scale))
        self._publish(release)
        return ""

    def _evaluate(self, rounds: int, moved: bool) -> Measured:
        if self.evaluate_on == "clients" and not moved and measured_before(self.job, self.history):
            log.info("after %d rounds the model is still the one whose metrics were summed in secret", rounds)
            return Measured({})
        measured = self._measure(rounds)
        self._tell(Evaluated(rounds, measured.metrics, self.whole, self.history))
        return measured

    def _measure(self, rounds: int) -> Measured:
        """The model measured on the server's data or the clients'; keeps the best model."""
        on_clients = self.evaluate_on == "clients"
        measured = self._ask_clients(rounds) if on_clients else on_server(self.workload, self.whole)
        metrics, name = measured.metrics, headline(measured.metrics)
        if name and better(name, metrics[name], self.best):
            self.best = (name, metrics[name], rounds)
            self.journal.model("best.safetensors", self.whole)
        return measured

    def _ask_clients(self, rounds: int) -> Measured:
        """Weighted mean of the clients' own metrics, over a cohort drawn for it."""
        policy, reachable = replace(self.policy, over_select=1.0), self._reachable()
        plan = make_plan(policy, reachable, {}, rounds, self.federation.now(), self.seed, "evaluate")
        got = self._collect(plan, "evaluate", WeightedSum(Layout((), (), ()), self.job.grid))
        self.federation.settle(got.verdicts)
        return of_clients(got, rounds)

    def _close(self, plan: Plan, got: Collected, record: RoundRecord) -> None:
        """Record and checkpoint the round, then let clients know what became of their updates."""
        self.open = {key: plan.carried.get(key, self._expiry(plan)) for key in got.open}
        self.scales = {n: scale for n, scale in self.scales.items() if n in {key.round for key in self.open}}
        self.history.rounds.append(record)
        self.journal.record(record)
        self._checkpoint()
        self.federation.settle(self.verdicts)

    def _demand_hope(self) -> None:
        if why := why_hopeless(self.history, self.policy):
            raise RunFailed(why)

    def _tell(self, event: Event) -> None:
        self.stopped = emit(self.observers, event) or self.stopped

    def _take_up(self, point: Checkpoint, history: History) -> None:
        """Continue from a checkpoint."""
        self.history = history
        self.model = sealed_copy(point.model, self.job.layout)
        self.state = {group: sealed(tensors) for group, tensors in point.state.items()}
        self.best, self._wall = point.best, point.wall_seconds
        self.open, self.scale, self.scales = dict(point.open), point.scale, dict(point.scales)
        self.verdicts = {key: Verdict(verdict) for key, verdict in point.verdicts.items()}
        self.downlink.load(point.downlink)
        self.federation.load(point.federation)
        self._publish(self.downlink.current(self.model))
        self.federation.settle(self.verdicts)

    def _checkpoint(self) -> None:
        if not self.journal.durable:
            return
        point = Checkpoint(
            *(self.job.id, len(self.history.rounds), self.model, self.state),
            *(self.federation.save(), self.downlink.save()),
            *(self.history.initial, self.open),
            self.verdicts,
            self.best,
            self._seconds(),
            self.scale,
            self.scales,
            initial_secagg=self.history.initial_secagg,
        )
        self.journal.checkpoint(point)

    def _seconds(self) -> float:
        return self._wall + time.perf_counter() - self._began

    def _leave_after(self, error: BaseException) -> None:
        """Leave the folder complete after an error, which what goes wrong here must not hide."""
        try:
            self._leave("failed" if isinstance(error, Exception) else "interrupted", str(error))
        except FedkitError as second:
            log.error("the run folder could not be completed: %s", second)

    def _leave(self, status: str, error: str = "") -> dict[str, Any]:
        """Write the last model and the summary."""
        self.journal.model("last.safetensors", self.whole)
        return self._summarise(status, error)

    def _summarise(self, status: str, error: str = "") -> dict[str, Any]:
        """Write the summary as it stands."""
        rounds = self.history.rounds
        virtual = rounds[-1].virtual_end - rounds[0].virtual_start if rounds else 0.0
        summary = summarise(self.job, self.title, self.seed, self.whole, self.history, self.best)
        summary |= {"status": status, "error": error, "stopped": self.stopped}
        summary["clock"] = getattr(self.federation, "clock", "virtual")
        summary |= {"wall_seconds": round(self._seconds(), 3), "virtual_seconds": virtual}
        self.journal.summary(summary)
        return summary
