"""The client's half of a round: replies, failures, and what is remembered when."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from fedkit import wire
from fedkit.aggregate import Grid, WeightedSum
from fedkit.clientstore import MemoryStore
from fedkit.codecs import CodecContext
from fedkit.codecs.none import Plain
from fedkit.dressing import undress
from fedkit.errors import ClientFailed
from fedkit.federation import Verdict
from fedkit.job import Job
from fedkit.messages import EncodedUpdate, Failure, Key, Kind, Metrics, Pass, Task, Trained, Update
from fedkit.participant import Participant
from fedkit.secagg.messages import FromClient
from fedkit.strategy import Strategy
from fedkit.tensors import Layout, Memory, State, Tensors, add
from fedkit.trainer import Correct, travelling

BASE: Tensors = {"w": np.zeros(2, np.float32), "own": np.full(2, 5, np.float32), "n": np.array(3)}


@dataclass
class Client:
    """Adds `step` to every tensor; `seen` keeps the starts."""

    step: float = 1.0
    examples: int = 4
    metrics: Metrics = field(default_factory=lambda: {"loss": 0.5})
    seen: list[Tensors] = field(default_factory=list)
    breaks: Callable[[], None] = lambda: None

    def train(self, pass_: Pass, task: Task, correct: Correct | None) -> Trained:
        self.breaks()
        self.seen.append({name: np.array(array) for name, array in pass_.start.items()})
        delta = {name: np.full_like(array, self.step) for name, array in pass_.start.items()}
        return Trained(delta, 1, float(self.examples), self.metrics)

    def evaluate(self, model: Tensors) -> tuple[Metrics, int]:
        self.breaks()
        return {name: float(array.sum()) for name, array in model.items()}, self.examples


@dataclass
class Work:
    made: Mapping[str, Client]

    def init(self, seed: int) -> Tensors:
        return BASE

    def clients(self) -> Sequence[str]:
        return sorted(self.made)

    def trainer(self, client: str) -> Client:
        return self.made[client]

    def evaluate(self, model: Tensors) -> Metrics:
        return {}


class Mean(Strategy):
    def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
        return add(model, total.mean()), state


class Personal(Mean):
    def shared(self, name: str) -> bool:
        return name != "own"


class Counting(Mean):
    """Remembers how often it was counted, and says so in an extra."""

    def extras(self, model: Tensors) -> Tensors:
        return {"times": np.zeros(1, np.float32)}

    def finish(self, task: Task, memory: Memory, trained: Sequence[Trained]) -> tuple[Update, Memory]:
        times = memory.get("count", {}).get("n", np.zeros(1, np.float32)) + np.float32(1)
        last = trained[-1]
        return Update(last.delta, 1.0, {}, {"times": times}), {"count": {"n": times}}


@dataclass(frozen=True)
class Sends(Mean):
    """Sends a given update whatever was trained."""

    update: Update

    def finish(self, task: Task, memory: Memory, trained: Sequence[Trained]) -> tuple[Update, Memory]:
        return self.update, {"never": {"kept": np.ones(1)}}


def make_job(strategy: Strategy) -> Job:
    layout = travelling(BASE, (), strategy.shared)
    extras = Layout.of(strategy.extras(BASE))
    return Job(strategy, Plain(), Plain(), layout, extras, Grid(), {}, 0)


@dataclass
class Bench:
    """A participant with its store."""

    strategy: Strategy
    made: Mapping[str, Client] = field(default_factory=lambda: {"ann": Client(), "bob": Client(2.0)})
    store: MemoryStore = field(default_factory=MemoryStore)

    def __post_init__(self) -> None:
        self.job = make_job(self.strategy)
        self.participant = Participant(self.job, Work(self.made), self.store)

    def key(self, client: str, round: int = 0, kind: Kind = "train") -> Key:
        return Key(self.job.id, round, kind, "", 0, client)

    def ask(self, client: str, round: int = 0, kind: Kind = "train") -> EncodedUpdate | Failure:
        model = {name: BASE[name] for name in self.job.layout.names}
        task = Task(self.key(client, round, kind), 1, model, {}, {}, 7, 1.0, 1e6, "", 1e6)
        (reply,) = self.participant.handle(task)
        assert not isinstance(reply, FromClient)
        return reply

    def update(self, client: str, round: int = 0) -> Update:
        reply = self.ask(client, round)
        assert isinstance(reply, EncodedUpdate), reply
        return undress(self.job, reply, CodecContext(7))

    def failure(self, client: str = "ann", kind: Kind = "train") -> Failure:
        reply = self.ask(client, 0, kind)
        assert isinstance(reply, Failure), reply
        return reply


def test_training_answers_with_the_delta_the_weight_and_the_metrics() -> None:
    update = Bench(Mean()).update("bob")
    assert {name: array.tolist() for name, array in update.delta.items()} == {"w": [2, 2], "own": [2, 2]}
    assert (update.weight, dict(update.metrics), update.work) == (4.0, {"loss": 0.5}, 1.0)


def test_an_exception_becomes_a_failure_with_its_class_and_traceback() -> None:
    def breaks() -> None:
        raise OSError("disk on fire")

    for kind in ("train", "evaluate"):
        failure = Bench(Mean(), {"ann": Client(breaks=breaks)}).failure(kind=kind)
        assert (failure.code, failure.exception, failure.subject) == ("exception", "OSError", "")
        assert "in breaks" in failure.detail
        assert failure.detail.endswith("OSError: disk on fire\n")


def test_a_client_that_says_why_it_failed_keeps_code_and_subject() -> None:
    def breaks() -> None:
        raise ClientFailed("no_data", "examples", "are none")

    failure = Bench(Mean(), {"ann": Client(breaks=breaks)}).failure()
    assert (failure.code, failure.exception, failure.subject) == ("no_data", "ClientFailed", "examples")


def test_a_keyboard_interrupt_is_nobodys_failure() -> None:
    def breaks() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Bench(Mean(), {"ann": Client(breaks=breaks)}).ask("ann")


GOOD = {"w": np.ones(2, np.float32), "own": np.ones(2, np.float32)}


@pytest.mark.parametrize(
    ("update", "code", "subject"),
    [
        (Update({**GOOD, "w": np.array([1, np.nan], np.float32)}, 1.0), "diverged", "w"),
        (Update({**GOOD, "own": np.array([np.inf, 0], np.float32)}, 1.0), "diverged", "own"),
        (Update({**GOOD, "w": np.array([1, 300], np.float32)}, 1.0), "diverged", "w"),  # beyond max_delta
        (Update({**GOOD, "w": np.ones(3, np.float32)}, 1.0), "update", "w"),
        (Update({**GOOD, "w": np.ones(2, np.int32)}, 1.0), "update", "w"),
        (Update({"w": GOOD["w"]}, 1.0), "update", "own"),
        (Update({**GOOD, "new": GOOD["w"]}, 1.0), "update", "new"),
        (Update(GOOD, 1.0, {}, {"odd": GOOD["w"]}), "update", "odd"),
        (Update(GOOD, math.nan), "diverged", "weight"),
        (Update(GOOD, 1.0, {"loss": math.inf}), "diverged", "loss"),
    ],
)
def test_an_update_that_cannot_be_sent_is_a_failure_that_names_what_is_wrong(
    update: Update, code: str, subject: str
) -> None:
    bench = Bench(Sends(update))
    failure = bench.failure()
    assert (failure.code, failure.subject) == (code, subject)
    assert not bench.participant.pending()


def test_metrics_of_numpy_travel() -> None:
    metrics: Any = {"loss": np.float32(0.25)}
    reply = Bench(Mean(), {"ann": Client(metrics=metrics)}).ask("ann")
    assert isinstance(wire.decode(wire.encode(reply)), EncodedUpdate)


def test_an_evaluation_metric_that_is_not_finite_is_named() -> None:
    class Blind(Client):
        def evaluate(self, model: Tensors) -> tuple[Metrics, int]:
            return {"loss": math.nan}, 3

    failure = Bench(Mean(), {"ann": Blind()}).failure(kind="evaluate")
    assert (failure.code, failure.subject) == ("diverged", "loss")


def test_memory_is_kept_when_counted() -> None:
    bench = Bench(Counting())
    for round, times in enumerate((1.0, 2.0, 3.0)):
        assert bench.update("ann", round).extras["times"].tolist() == [times]
        bench.participant.settle(bench.key("ann", round), Verdict.counted)
    assert bench.update("bob").extras["times"].tolist() == [1.0]  # each client has its own


@pytest.mark.parametrize("verdict", [v for v in Verdict if v is not Verdict.counted])
def test_memory_is_rolled_back_on_any_other_verdict(verdict: Verdict) -> None:
    bench = Bench(Counting())
    bench.update("ann")
    bench.participant.settle(bench.key("ann"), verdict)
    assert not bench.participant.pending()
    bench.participant.settle(bench.key("ann"), Verdict.counted)  # too late
    assert bench.update("ann", 1).extras["times"].tolist() == [1.0]


def test_a_verdict_may_come_twice() -> None:
    bench = Bench(Counting())
    bench.update("ann")
    bench.participant.settle(bench.key("ann"), Verdict.counted)
    bench.participant.settle(bench.key("ann"), Verdict.counted)
    bench.participant.settle(bench.key("ann"), Verdict.lost)
    assert bench.update("ann", 1).extras["times"].tolist() == [2.0]


def test_what_waits_for_a_verdict_outlives_the_process() -> None:
    first = Bench(Counting())
    first.update("ann")
    second = Bench(Counting())
    second.participant.restore(first.participant.pending())
    second.participant.settle(second.key("ann"), Verdict.counted)
    assert second.update("ann", 1).extras["times"].tolist() == [2.0]


def test_a_strategy_without_memory_leaves_nothing_to_settle() -> None:
    bench = Bench(Mean())
    bench.update("ann")
    assert not bench.participant.pending()


def test_personal_tensors_never_travel_and_start_from_the_initial_model() -> None:
    bench = Bench(Personal())
    assert bench.job.layout.names == ("w",)
    assert set(bench.update("ann").delta) == {"w"}
    assert bench.made["ann"].seen[0]["own"].tolist() == [5, 5]


def test_personal_tensors_are_each_clients_own_and_continue_where_they_were() -> None:
    bench = Bench(Personal())
    for round in range(3):
        for client in ("ann", "bob"):
            bench.update(client, round)
            bench.participant.settle(bench.key(client, round), Verdict.counted)
    assert [start["own"][0] for start in bench.made["ann"].seen] == [5, 6, 7]
    assert [start["own"][0] for start in bench.made["bob"].seen] == [5, 7, 9]
    assert [start["w"][0] for start in bench.made["bob"].seen] == [0, 0, 0]
    assert BASE["own"].tolist() == [5, 5]


def test_personal_tensors_are_rolled_back_unless_counted() -> None:
    bench = Bench(Personal())
    for round, verdict in enumerate((Verdict.counted, Verdict.late, Verdict.refused, Verdict.counted)):
        bench.update("ann", round)
        bench.participant.settle(bench.key("ann", round), verdict)
    assert [start["own"][0] for start in bench.made["ann"].seen] == [5, 6, 6, 6]


def test_every_pass_continues_the_personal_tensors_of_the_one_before() -> None:
    class Twice(Personal):
        def begin(self, task: Task, memory: Memory) -> Sequence[Pass]:
            return (Pass(task.model, task.model), Pass(task.model, task.model))

    bench = Bench(Twice())
    bench.update("ann")
    assert [start["own"][0] for start in bench.made["ann"].seen] == [5, 6]
    bench.participant.settle(bench.key("ann"), Verdict.counted)
    assert bench.store.get("ann", "personal")["tensors"]["own"].tolist() == [7, 7]


def evaluated(bench: Bench, client: str) -> Metrics:
    reply = bench.ask(client, 9, "evaluate")
    assert isinstance(reply, EncodedUpdate)
    assert (reply.payload, reply.weight) == (b"", 4.0)
    return reply.metrics


def test_a_client_evaluates_the_model_with_its_personal_tensors() -> None:
    bench = Bench(Personal())
    assert evaluated(bench, "ann") == {"w": 0.0, "own": 10.0}
    bench.update("ann")
    assert evaluated(bench, "ann") == {"w": 0.0, "own": 12.0}  # counted, as far as the client knows
    assert evaluated(bench, "bob") == {"w": 0.0, "own": 10.0}
    bench.participant.settle(bench.key("ann"), Verdict.refused)
    assert evaluated(bench, "ann") == {"w": 0.0, "own": 10.0}
