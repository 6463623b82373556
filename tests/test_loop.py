"""The training loop: what a round does to the model, to clients' memory and to whoever watches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from fedkit import RoundPolicy, RunFailed, Strategy, run
from fedkit.aggregate import WeightedSum
from fedkit.codecs import CodecContext
from fedkit.dressing import dress
from fedkit.events import Evaluated, Replied, RoundEnded, RunEnded, RunStarted
from fedkit.federation import Arrival, Partial, Reply, Request, Standing, Verdict
from fedkit.history import Outcome, RoundRecord
from fedkit.job import Job
from fedkit.messages import ClientId, EncodedUpdate, Failure, Key, Metrics, Pass, Task, Trained, Update
from fedkit.tensors import Memory, State, Tensors, add, digest, scale, subtract
from fedkit.trainer import Correct
from fedkit_strategies import FedAvg
from tests.federations import Bare

# A workload whose clients push the weights by a constant, and a federation that does as it is told


@dataclass
class Push:
    """Trains towards start + value; fails with `error` if there is one."""

    value: float
    examples: int = 1
    error: Exception | None = None
    calls: list[str] = field(default_factory=list)

    def train(self, pass_: Pass, task: Task, correct: Correct | None) -> Trained:
        self.calls.append("train")
        if self.error is not None:
            raise self.error
        delta = {n: np.full_like(a, self.value) for n, a in pass_.start.items()}
        return Trained(delta, 1, float(self.examples), {"loss": self.value})

    def evaluate(self, model: Tensors) -> tuple[Metrics, int]:
        self.calls.append("evaluate")
        if self.error is not None:
            raise self.error
        return {"score": float(model["w"][0]) + self.value}, self.examples


@dataclass
class Work:
    made: Mapping[ClientId, Push]
    base: Tensors = field(default_factory=lambda: {"w": np.array([1.0, 2.0], np.float32)})
    frozen: Sequence[str] = ()
    max_weight: float = 64.0

    def init(self, seed: int) -> Tensors:
        return {name: np.array(array) for name, array in self.base.items()}

    def clients(self) -> Sequence[ClientId]:
        return sorted(self.made)

    def trainer(self, client: ClientId) -> Push:
        return self.made[client]

    def evaluate(self, model: Tensors) -> Metrics:
        return {"score": np.float32(model["w"][0])}  # type: ignore[dict-item] # as users do


Answer = Callable[[Job, Task], tuple[float, Reply] | None]


@dataclass
class Told(Bare):
    """A federation whose clients answer what `answer` says, after so many seconds; None: never."""

    names: Sequence[ClientId]
    answer: Answer
    clock: float = 0.0
    sent: list[Task] = field(default_factory=list)
    settled: list[dict[Key, Verdict]] = field(default_factory=list)
    out: dict[Key, tuple[float, Reply] | None] = field(default_factory=dict)

    def clients(self) -> Sequence[ClientId]:
        return self.names

    def send(self, requests: Iterable[Request]) -> None:
        for task in requests:
            assert isinstance(task, Task)
            self.sent.append(task)
            answer = self.answer(self.job, task)
            self.out[task.key] = answer and (self.clock + answer[0], answer[1])

    def receive(self, until: float, want: int | None = None) -> Iterator[Arrival]:
        due = sorted((a[0], key) for key, a in self.out.items() if a is not None and a[0] <= until)
        for at, key in due:
            answer = self.out.pop(key)
            assert answer is not None
            self.clock = max(at, self.clock)
            yield Arrival(key, at, answer[1])
        if self.out or not due:
            self.clock = until

    def outstanding(self) -> Mapping[Key, Standing]:
        return {key: Standing(answer is not None, "") for key, answer in self.out.items()}

    def settle(self, verdicts: Mapping[Key, Verdict]) -> None:
        self.settled.append(dict(verdicts))
        for key in verdicts:
            self.out.pop(key, None)


def update(job: Job, task: Task, value: float, weight: float = 1.0) -> EncodedUpdate:
    delta = {name: np.full_like(task.model[name], value) for name in job.layout.names}
    return dress(job, task.key, Update(delta, weight), CodecContext(task.seed))


def three(**changes: Push) -> Work:
    return Work({"ann": Push(1.0, 1), "bob": Push(2.0, 2), "cay": Push(4.0, 1), **changes})


# What a round does to the model


def test_a_round_moves_the_model_by_the_weighted_mean() -> None:
    result = run("fedavg", three(), rounds=2)
    assert result.model["w"].tolist() == [1.0 + 2 * 2.25, 2.0 + 2 * 2.25]  # (1 + 2*2 + 4) / 4 a round
    assert [record.ok for record in result.history.rounds] == [True, True]
    assert result.history.rounds[0].weight == 4.0
    assert result.history.rounds[0].train == {"loss": 2.25}


def test_the_model_is_that_of_the_round_without_a_client_that_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = run("fedavg", three(bob=Push(9.0, error=OSError("disk on fire"))), rounds=3)
    without = run("fedavg", Work({"ann": Push(1.0, 1), "cay": Push(4.0, 1)}), rounds=3)
    assert digest(failing.model) == digest(without.model)
    for record in failing.history.rounds:
        assert record.fates["bob"].outcome is Outcome.failed
        assert record.fates["bob"].why == "exception: OSError: disk on fire"
        assert record.count(Outcome.counted) == 2
    assert caplog.text.count("client bob failed") == 3
    assert "Traceback" in caplog.text
    assert failing.summary["clients_failed"] == 3


def test_the_model_is_that_of_the_round_without_a_client_that_was_refused() -> None:
    def answer(job: Job, task: Task) -> tuple[float, Reply] | None:
        if task.key.client == "bob":
            return 0.5, replace(update(job, task, 9.0), weight=-1.0)
        return 1.0, update(job, task, 1.5)

    work = three()
    refused = run("fedavg", work, Told(["ann", "bob", "cay"], answer), rounds=3)
    without = run("fedavg", work, Told(["ann", "cay"], answer), rounds=3)
    assert digest(refused.model) == digest(without.model)
    assert {r.fates["bob"].outcome for r in refused.history.rounds} == {Outcome.refused}


def test_below_the_quorum_the_model_stays_bit_for_bit_and_the_run_goes_on() -> None:
    def answer(job: Job, task: Task) -> tuple[float, Reply] | None:
        return (1.0, update(job, task, 0.1)) if task.key.round != 1 or task.key.client == "ann" else None

    seen: list[str] = []

    class Watch:
        def round_ended(self, event: RoundEnded) -> None:
            seen.append(f"{event.record.round} {event.record.ok}")

        def evaluated(self, event: Evaluated) -> None:
            seen.append(digest(event.model))

    work = three()
    federation = Told(work.clients(), answer)
    result = run(
        "fedavg", work, federation, rounds=3, policy=RoundPolicy(quorum=2, deadline=5.0), observers=[Watch()]
    )
    _, after0, good, after1, failed, after2, last = seen
    assert (good, failed, last) == ("0 True", "1 False", "2 True")
    assert after0 == after1 != after2
    failed_round = result.history.rounds[1]
    assert failed_round.reason == "1 of 3 invited clients were counted, the quorum is 2"
    assert {c: f.outcome.value for c, f in failed_round.fates.items()} == {
        "ann": "counted",
        "bob": "lost",
        "cay": "lost",
    }
    assert result.summary["rounds_failed"] == 1
    verdict = federation.settled[1][Key(federation.job.id, 1, "train", "", 0, "ann")]
    assert verdict is Verdict.unwanted  # its update was thrown away with the sum


def test_too_many_failed_rounds_in_a_row_stop_the_run(tmp_path: Path) -> None:
    work = three()
    federation = Told(work.clients(), lambda job, task: None)
    policy = RoundPolicy(deadline=5.0, max_failures=2)
    with pytest.raises(
        RunFailed, match="2 rounds in a row have failed, the last because 0 of 3 invited"
    ) as e:
        run("fedavg", work, federation, rounds=9, policy=policy, out=tmp_path / "run")
    assert "(client 'ann' lost: no reply" in str(e.value)
    assert "rounds.quorum" in str(e.value)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["status"], summary["rounds"], summary["rounds_failed"]) == ("failed", 2, 2)
    assert summary["error"] == str(e.value)


def test_a_good_round_between_failed_ones_starts_the_count_anew() -> None:
    def answer(job: Job, task: Task) -> tuple[float, Reply] | None:
        return (1.0, update(job, task, 0.1)) if task.key.round % 2 else None

    work = three()
    policy = RoundPolicy(deadline=5.0, max_failures=2)
    result = run("fedavg", work, Told(work.clients(), answer), rounds=6, policy=policy)
    assert [record.ok for record in result.history.rounds] == [False, True] * 3


def test_when_every_client_fails_the_run_stops_with_the_first_cause(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def train() -> Push:
        return Push(1.0, error=KeyError("label"))

    work = Work({"ann": train(), "bob": train()})
    who = "all 2 clients of the round failed, 'ann' first"
    cause = who + r": exception: KeyError: 'label' \(.*test_loop\.py:\d+\)$"
    with pytest.raises(RunFailed, match=cause):
        run("fedavg", work, rounds=9, out=tmp_path / "run")
    assert caplog.text.count("Traceback") == 1
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["status"], summary["rounds"], summary["clients_failed"]) == ("failed", 1, 2)
    assert (tmp_path / "run/last.safetensors").exists()


def test_a_step_that_leaves_a_number_that_is_not_finite_fails_its_round(tmp_path: Path) -> None:
    class Explodes(FedAvg):
        def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
            return {**model, "w": model["w"] * np.float32(np.inf)}, state

    with pytest.raises(RunFailed, match=r"Explodes\.step made a model that is not finite in tensor 'w'"):
        run(Explodes(), three(), rounds=9, policy=RoundPolicy(max_failures=2), out=tmp_path / "run")
    lines = (tmp_path / "run/rounds.jsonl").read_text().splitlines()
    assert [RoundRecord.from_json(line).ok for line in lines] == [False, False]


def test_integer_buffers_and_frozen_weights_keep_the_servers_value_and_do_not_travel() -> None:
    base = {
        "steps": np.array(7),
        "w": np.array([1.0, 2.0], np.float32),
        "table": np.full(100, 3, np.float32),
    }
    work = Work({"ann": Push(1.0), "bob": Push(1.0)}, base, frozen=("table",))
    result = run("fedavg", work, rounds=2)
    assert list(result.model) == ["steps", "w", "table"]
    assert result.model["w"].tolist() == [3.0, 4.0]
    assert result.model["steps"].shape == ()
    assert (result.model["steps"] == 7).all()
    assert (result.model["table"] == 3).all()
    assert result.summary["parameters"] == 2
    assert result.summary["bytes_up_float32"] == 2 * 2 * 2 * 4


def test_partial_sums_of_workers_count_their_members() -> None:
    def answer(job: Job, task: Task) -> tuple[float, Reply] | None:
        if task.key.client != "ann":
            return None  # ann's worker answers for all
        members = tuple(replace(task.key, client=c) for c in ("ann", "bob", "cay"))
        total = job.zero()
        for value, weight in ((1.0, 1.0), (2.0, 2.0), (4.0, 1.0)):
            total.add("x", Update({"w": np.full(2, value, np.float32)}, weight, {"loss": value}))
        return 1.0, Partial(task.key, total, members)

    work = three()
    partial = run("fedavg", work, Told(work.clients(), answer), rounds=2)
    assert digest(partial.model) == digest(run("fedavg", work, rounds=2).model)
    assert {f.outcome for f in partial.history.rounds[1].fates.values()} == {Outcome.counted}


def test_a_rule_that_needs_each_update_replaces_the_mean() -> None:
    class Median(FedAvg):
        needs_each_update: ClassVar[bool] = True

        def combine(self, updates: Sequence[tuple[ClientId, Update]], zero: WeightedSum) -> WeightedSum:
            assert [client for client, _ in updates] == ["ann", "bob", "cay"]
            stacked = np.stack([u.delta["w"] for _, u in updates])
            zero.add("median", Update({"w": np.median(stacked, axis=0).astype(np.float32)}, 1.0))
            return zero

    result = run(Median(), three(cay=Push(200.0)), rounds=1)
    assert result.model["w"].tolist() == [3.0, 4.0]


# Late updates


def slow_bob(job: Job, task: Task) -> tuple[float, Reply] | None:
    """bob needs 10.5 seconds, where a round has 10; the others push by 1 within one."""
    if task.key.client == "bob":
        return 10.5, update(job, task, 5.0, 3.0)
    return 1.0, update(job, task, 1.0, 1.0)


def test_a_late_update_is_forgotten_where_late_ones_are_dropped() -> None:
    work = three()
    policy = RoundPolicy(deadline=10.0)
    result = run("fedavg", work, Told(work.clients(), slow_bob), rounds=2, policy=policy)
    assert [r.fates["bob"].outcome for r in result.history.rounds] == [Outcome.late, Outcome.late]
    assert result.model["w"].tolist() == [3.0, 4.0]
    assert result.history.rounds[0].virtual_end == 10.0


def test_a_late_update_joins_a_later_round_with_the_stated_weight() -> None:
    work = three()
    federation = Told(work.clients(), slow_bob)
    policy = RoundPolicy(deadline=10.0, late="carry")
    result = run("fedavg", work, federation, rounds=2, policy=policy)
    first, second = result.history.rounds
    assert first.fates["bob"].outcome is Outcome.late
    assert sorted(second.fates) == ["ann", "cay"]  # bob is still at it
    assert second.carried["bob"].outcome is Outcome.counted
    assert second.carried["bob"].round == 0

    by_hand = federation.job.zero()
    for value, weight in ((1.0, 1.0), (1.0, 1.0), (5.0, 3.0 * 2**-0.5)):
        by_hand.add("x", Update({"w": np.full(2, value, np.float32)}, weight))
    expected = add({"w": np.array([2.0, 3.0], np.float32)}, by_hand.mean())
    assert digest(result.model) == digest(expected)
    assert second.weight == by_hand.weight
    assert result.summary["clients_carried"] == 1


def test_a_late_update_expires_after_carry_rounds() -> None:
    def answer(job: Job, task: Task) -> tuple[float, Reply] | None:
        seconds = 1000.0 if task.key.client == "bob" and task.key.round == 0 else 1.0
        return seconds, update(job, task, 1.0)

    work = three()
    federation = Told(work.clients(), answer)
    policy = RoundPolicy(deadline=10.0, late="carry", carry_rounds=2)
    result = run("fedavg", work, federation, rounds=5, policy=policy)
    asked = [r.round for r in result.history.rounds if "bob" in r.fates]
    assert asked == [0, 3, 4]
    assert [r.carried.get("bob") is not None for r in result.history.rounds] == [0, 0, 1, 0, 0]
    assert result.history.rounds[2].carried["bob"].outcome is Outcome.lost
    lost = Key(federation.job.id, 0, "train", "", 0, "bob")
    assert federation.settled[2][lost] is Verdict.lost


def test_a_carried_update_in_a_failed_round_is_thrown_away_with_the_sum() -> None:
    def answer(job: Job, task: Task) -> tuple[float, Reply] | None:
        return slow_bob(job, task) if task.key.round == 0 else None

    work = three()
    federation = Told(work.clients(), answer)
    policy = RoundPolicy(deadline=10.0, late="carry", quorum=2)
    result = run("fedavg", work, federation, rounds=2, policy=policy)
    assert not result.history.rounds[1].ok
    assert result.model["w"].tolist() == [2.0, 3.0]
    key = Key(federation.job.id, 0, "train", "", 0, "bob")
    assert federation.settled[1][key] is Verdict.unwanted


# What clients remember


@dataclass(frozen=True)
class Controlled(Strategy):
    """SCAFFOLD's bookkeeping: the server's control is the mean of the clients' (all take part)."""

    clients: int

    def init(self, model: Tensors) -> State:
        return {"control": scale(model, 0.0)}

    def context(self, state: State) -> State:
        return {"control": state["control"]}

    def extras(self, model: Tensors) -> Tensors:
        return scale(model, 0.0)

    def finish(self, task: Task, memory: Memory, trained: Sequence[Trained]) -> tuple[Update, Memory]:
        delta = trained[-1].delta
        old = memory.get("control", scale(delta, 0.0))
        new = add(subtract(old, task.context["control"]), delta, scale=-1.0)
        return Update(delta, 1.0, {}, subtract(new, old)), {"control": new}

    def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
        control = add(state["control"], total.extras, scale=1 / self.clients)
        return add(model, total.mean()), {"control": control}


def test_extras_and_memory_keep_a_server_in_step_with_its_clients() -> None:
    """c_i' = c_i - c - delta_i, c' = c + mean(c_i' - c_i), so c' = -mean(delta) after every round."""
    states: list[float] = []

    @dataclass(frozen=True)
    class Watched(Controlled):
        def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
            model, state = super().step(model, state, total)
            states.append(float(state["control"]["w"][0]))
            return model, state

    run(Watched(3), three(), rounds=4)
    assert states == pytest.approx([-7 / 3] * 4, rel=1e-6)


def test_a_failed_round_leaves_clients_memory_as_it_was() -> None:
    """With a quorum of 2, a round in which only ann was counted must not move her control."""

    @dataclass(frozen=True)
    class Counts(FedAvg):
        def extras(self, model: Tensors) -> Tensors:
            return {"times": np.zeros(1, np.float32)}

        def finish(self, task: Task, memory: Memory, trained: Sequence[Trained]) -> tuple[Update, Memory]:
            times = memory.get("count", {}).get("n", np.zeros(1, np.float32)) + np.float32(1)
            seen.append((task.key.round, task.key.client, int(times[0])))
            return Update(trained[-1].delta, 1.0, {}, {"times": times}), {"count": {"n": times}}

    class Flaky(Push):
        def train(self, pass_: Pass, task: Task, correct: Correct | None) -> Trained:
            if task.key.round == 1:
                raise OSError("gone")
            return super().train(pass_, task, correct)

    seen: list[tuple[int, str, int]] = []
    work = Work({"ann": Push(1.0), "bob": Flaky(1.0)})
    run(Counts(), work, rounds=3, policy=RoundPolicy(quorum=2))
    assert seen == [(0, "ann", 1), (0, "bob", 1), (1, "ann", 2), (2, "ann", 2), (2, "bob", 2)]


def test_personal_tensors_stay_with_the_clients() -> None:
    starts: dict[str, list[float]] = {"ann": [], "bob": []}

    class Personal(FedAvg):
        def shared(self, name: str) -> bool:
            return name != "head"

    class Records(Push):
        def train(self, pass_: Pass, task: Task, correct: Correct | None) -> Trained:
            starts[task.key.client].append(float(pass_.start["head"][0]))
            return super().train(pass_, task, correct)

    base = {"w": np.zeros(1, np.float32), "head": np.full(1, 5, np.float32)}
    work = Work({"ann": Records(1.0), "bob": Records(2.0)}, base)
    result = run(Personal(), work, rounds=3)
    assert starts == {"ann": [5, 6, 7], "bob": [5, 7, 9]}
    assert result.model["head"].tolist() == [5.0]
    assert result.model["w"].tolist() == [4.5]
    assert result.summary["parameters"] == 1


# Evaluation


def test_clients_evaluate_the_new_model_weighted_by_their_examples() -> None:
    result = run("fedavg", three(), rounds=1, evaluate_on="clients")
    mean = (1.0 * 1 + 2.0 * 2 + 4.0 * 1) / 4
    assert result.history.initial == {"score": pytest.approx(1.0 + mean, rel=1e-6)}
    assert result.history.rounds[0].metrics == {"score": pytest.approx(1.0 + mean + mean, rel=1e-6)}


def test_clients_that_are_late_or_crashed_do_not_hold_up_the_evaluation() -> None:
    def answer(job: Job, task: Task) -> tuple[float, Reply] | None:
        if task.key.kind == "evaluate":
            return 1.0, EncodedUpdate(task.key, "none", b"", 1.0, {"score": 3.0}, 1.0)
        if task.key.client == "bob":
            return 12.0, update(job, task, 1.0)
        return (2.0, update(job, task, 1.0)) if task.key.client == "ann" else None

    work = three()
    federation = Told(work.clients(), answer)
    policy = RoundPolicy(deadline=10.0)
    result = run("fedavg", work, federation, rounds=2, policy=policy, evaluate_on="clients")
    for record in result.history.rounds:
        assert record.virtual_end - record.virtual_start == 10.0 + 1.0
        assert record.metrics == {"score": 3.0}
        assert {c: f.outcome.value for c, f in record.fates.items()} == {
            "ann": "counted",
            "bob": "late",
            "cay": "lost",
        }


def test_a_client_that_cannot_evaluate_is_logged_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def answer(job: Job, task: Task) -> tuple[float, Reply] | None:
        if task.key.kind == "train":
            return 1.0, update(job, task, 1.0)
        if task.key.client == "bob":
            return 1.0, Failure(task.key, "no_data", "ClientFailed", "held-out examples")
        return 1.0, EncodedUpdate(task.key, "none", b"", 1.0, {"score": 3.0}, 1.0)

    work = three()
    result = run("fedavg", work, Told(work.clients(), answer), rounds=1, evaluate_on="clients")
    assert result.history.rounds[0].metrics == {"score": 3.0}
    assert "client bob failed: no_data" in caplog.text


def test_evaluation_comes_every_so_many_rounds_and_after_the_last() -> None:
    result = run("fedavg", three(), rounds=5, evaluate_every=2)
    assert [bool(r.metrics) for r in result.history.rounds] == [False, True, False, True, True]
    assert [rounds for rounds, _ in result.history.series("score")] == [0, 2, 4, 5]


def test_the_best_and_the_last_model_are_kept(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    class Peaks(Work):
        def evaluate(self, model: Tensors) -> Metrics:
            return {"score": -abs(float(model["w"][0]) - 3.0)}

    result = run("fedavg", Peaks({"ann": Push(1.0)}), rounds=4, out=tmp_path / "run")
    assert load_file(tmp_path / "run/best.safetensors")["w"].tolist() == [3.0, 4.0]
    assert load_file(tmp_path / "run/last.safetensors")["w"].tolist() == [5.0, 6.0]
    assert result.summary["best"] == {"metric": "score", "value": 0.0, "round": 2}


# Who watches


def test_events_come_in_order_to_any_object_that_has_the_methods() -> None:
    seen: list[str] = []

    class Everything:
        def __getattr__(self, name: str) -> Callable[[Any], None]:
            return lambda event: seen.append(f"{name} {type(event).__name__}")

    class Last:
        """Has one method alone."""

        def run_ended(self, event: RunEnded) -> None:
            seen.append("the end")

    run("fedavg", Work({"ann": Push(1.0), "bob": Push(1.0)}), rounds=2, observers=[Last(), Everything()])
    one_round = [
        "round_started RoundStarted",
        "replied Replied",
        "replied Replied",
        "evaluated Evaluated",
        "round_ended RoundEnded",
    ]
    assert seen == [
        "run_started RunStarted",
        "evaluated Evaluated",
        *one_round,
        *one_round,
        "the end",
        "run_ended RunEnded",
    ]


def test_events_say_what_happened() -> None:
    seen: dict[str, list[Any]] = {"started": [], "replied": [], "evaluated": [], "ended": []}

    class Watch:
        def run_started(self, event: RunStarted) -> None:
            seen["started"].append((event.rounds, dict(event.history.initial)))

        def replied(self, event: Replied) -> None:
            failed = event.failure.exception if event.failure else ""
            seen["replied"].append((event.client, event.fate.outcome, event.counted, event.want, failed))

        def evaluated(self, event: Evaluated) -> None:
            seen["evaluated"].append((event.rounds, event.metrics["score"], float(event.model["w"][0])))

        def run_ended(self, event: RunEnded) -> None:
            seen["ended"].append((len(event.history.rounds), event.stopped))

    work = Work({"ann": Push(1.0), "bob": Push(1.0, error=OSError())})
    run("fedavg", work, rounds=1, observers=[Watch()])
    assert seen == {
        "started": [(1, {"score": 1.0})],
        "replied": [("ann", Outcome.counted, 1, 2, ""), ("bob", Outcome.failed, 1, 2, "OSError")],
        "evaluated": [(0, 1.0, 1.0), (1, 2.0, 2.0)],
        "ended": [(1, "")],
    }


@pytest.mark.parametrize("method", ["round_started", "replied", "evaluated", "round_ended"])
def test_a_string_from_any_observer_stops_the_run_after_the_round(method: str) -> None:
    class Enough:
        def __init__(self) -> None:
            setattr(self, method, self.stop)

        def stop(self, event: Any) -> str:
            if isinstance(event, Evaluated):
                return "enough" if event.rounds == 2 else ""
            part = getattr(event, "plan", None) or getattr(event, "record", None) or event
            return "enough" if part.round == 1 else ""

    result = run("fedavg", three(), rounds=9, observers=[Enough()])
    assert len(result.history.rounds) == 2
    assert result.summary["stopped"] == "enough"
    assert all(len(record.fates) == 3 for record in result.history.rounds)


def test_a_string_before_the_first_round_stops_the_run_there() -> None:
    class No:
        def run_started(self, event: RunStarted) -> str:
            return "not today"

    result = run("fedavg", three(), rounds=9, observers=[No()])
    assert (result.summary["rounds"], result.summary["stopped"]) == (0, "not today")


def test_an_interrupt_leaves_a_complete_folder(tmp_path: Path) -> None:
    class Interrupts:
        def round_started(self, event: Any) -> None:
            if event.plan.round == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("fedavg", three(), rounds=3, observers=[Interrupts()], out=tmp_path / "run")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("interrupted", 1)
    result = run("fedavg", three(), rounds=3, out=tmp_path / "run", resume=True)
    assert digest(result.model) == digest(run("fedavg", three(), rounds=3).model)


class Leaping(FedAvg):
    """First to 5, then further than codecs can tell."""

    def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
        end = 5.0 if model["w"][0] == 1.0 else 3e38
        return {name: np.full_like(array, end) for name, array in model.items()}, state


def test_a_model_that_cannot_be_sent_leaves_the_run_with_the_one_it_had() -> None:
    result = run(Leaping(), three(), rounds=3, codec_down="int8", policy=RoundPolicy(max_failures=9))
    assert [record.ok for record in result.history.rounds] == [True, False, False]
    assert "the new model cannot be sent" in result.history.rounds[1].reason
    assert result.model["w"][0] == 5.0
    assert [record.metrics for record in result.history.rounds] == [{"score": 5.0}] * 3


def test_where_devices_can_be_mended_the_loop_waits_after_each_failed_round_and_ends_no_run() -> None:
    waits: list[tuple[int, str]] = []

    class Mended(Told):
        def pause(self, failures: int, reason: str) -> None:
            waits.append((failures, reason))

    def answer(job: Job, task: Task) -> tuple[float, Reply]:
        mended = task.key.round in (2, 4)
        return (1.0, update(job, task, 1.0)) if mended else (1.0, Failure(task.key, "refused", "", "mode"))

    got = run(
        "fedavg",
        Work({"ann": Push(1.0)}),
        Mended(["ann"], answer),
        rounds=6,
        policy=RoundPolicy(max_failures=7),
    )
    assert [record.ok for record in got.history.rounds] == [False, False, True, False, True, False]
    assert [failures for failures, _ in waits] == [1, 2, 1], (
        "none after a good round, and none after the last"
    )
    assert "the quorum is 1" in waits[0][1]
