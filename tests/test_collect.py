"""One round's replies: a fate for every invited client, and a sum that bad replies cannot touch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pytest

from fedkit import plugins
from fedkit.aggregate import Grid, WeightedSum
from fedkit.codecs import CodecContext
from fedkit.codecs.none import Plain
from fedkit.collect import Collected, Collector
from fedkit.dressing import dress
from fedkit.federation import Arrival, Partial, Plan, Reply, Request, Standing, Verdict
from fedkit.history import Fate, Outcome
from fedkit.job import Job
from fedkit.judging import fatal_cause, verdicts, why_failed
from fedkit.messages import ClientId, EncodedUpdate, Failure, Key, Kind, Task, Update
from fedkit.strategy import Strategy
from fedkit.tensors import Layout, State, Tensors, add, zeros
from tests.federations import Bare

LAYOUT = Layout(("w", "b"), ((2,), (1,)), ("float32", "float32"))
NOW = 10.0


class Mean(Strategy):
    def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
        return add(model, total.mean()), state


class Patient(Mean):
    accepts_partial_work: ClassVar[bool] = True


class Median(Mean):
    """The coordinate-wise median, as a sum of one update; keeps the order in which updates came."""

    needs_each_update: ClassVar[bool] = True
    seen: ClassVar[list[ClientId]] = []

    def combine(self, updates: Sequence[tuple[ClientId, Update]], zero: WeightedSum) -> WeightedSum:
        self.seen[:] = [client for client, _ in updates]
        stacked = np.stack([LAYOUT.flatten(update.delta) for _, update in updates])
        zero.add("median", Update(LAYOUT.view(np.median(stacked, axis=0).astype(np.float32)), 1.0))
        return zero


def make_job(strategy: Strategy) -> Job:
    return Job(strategy, Plain(), Plain(), LAYOUT, Layout((), (), ()), Grid(64, 256), {}, 0)


def delta(value: float) -> Tensors:
    return LAYOUT.view(np.full(3, value, np.float32))


@dataclass
class Fake(Bare):
    """A federation whose replies are given: client -> (seconds, reply); clients may be `alive` or not."""

    replies: Sequence[tuple[float, Key, Reply]]
    alive: Sequence[ClientId] = ()
    sent: list[Task] = field(default_factory=list)
    clock: float = NOW

    def clients(self) -> Sequence[ClientId]:
        return []

    def send(self, requests: Iterable[Request]) -> None:
        self.sent += [request for request in requests if isinstance(request, Task)]

    def receive(self, until: float, want: int | None = None) -> Iterator[Arrival]:
        for seconds, key, reply in sorted(self.replies, key=lambda r: r[0]):
            if NOW + seconds <= until:
                self.clock = NOW + seconds
                yield Arrival(key, self.clock, reply)
        self.clock = until

    def outstanding(self) -> Mapping[Key, Standing]:
        return {
            task.key: Standing(task.key.client in self.alive, f"{task.key.client} was asked")
            for task in self.sent
        }

    def settle(self, verdicts: Mapping[Key, Verdict]) -> None: ...


@dataclass
class Round:
    """Round 5 of a job: who is invited, what they answer, and what comes of it."""

    strategy: Strategy = field(default_factory=Mean)
    clients: Sequence[ClientId] = ("ann", "bob", "cay")
    want: int = 3
    quorum: int = 1
    carried: Mapping[Key, float] = field(default_factory=dict)
    carry_rounds: int = 0
    kind: Kind = "train"
    alive: Sequence[ClientId] = ()
    replies: list[tuple[float, Key, Reply]] = field(default_factory=list)
    told: list[tuple[ClientId, Outcome, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.job = make_job(self.strategy)
        seeds = dict.fromkeys(self.clients, 1)
        args = (5, NOW, NOW + 30.0, tuple(self.clients), self.want, self.quorum, seeds)
        self.plan = Plan(*args, dict(self.carried))

    def key(self, client: ClientId, round: int = 5) -> Key:
        return Key("job", round, self.kind, "", 0, client)

    def says(self, client: ClientId, reply: Reply, seconds: float = 1.0, round: int = 5) -> None:
        self.replies.append((seconds, self.key(client, round), reply))

    def update(
        self, client: ClientId, value: float, weight: float = 1.0, round: int = 5, work: float = 1.0
    ) -> EncodedUpdate:
        sent = Update(delta(value), weight, {"loss": value}, {}, work)
        return dress(self.job, self.key(client, round), sent, CodecContext(1))

    def trains(self, client: ClientId, value: float, weight: float = 1.0, seconds: float = 1.0) -> None:
        self.says(client, self.update(client, value, weight), seconds)

    def run(self) -> Collected:
        self.federation = Fake(self.replies, self.alive)

        def notify(client: ClientId, fate: Fate, counted: int, failure: Failure | None) -> None:
            self.told.append((client, fate.outcome, counted))

        zero = self.job.zero()
        collector = Collector(
            self.federation, self.job, self.plan, lambda key: CodecContext(1), zero, self.carry_rounds, notify
        )
        tasks = {
            self.key(c): Task(self.key(c), 1, zeros(LAYOUT), {}, {}, 1, 1.0, self.plan.deadline)
            for c in self.clients
        }
        got = collector.run(tasks)
        assert sorted(got.fates) == sorted(self.clients)  # each invited client has exactly one
        assert len(self.told) == len(self.clients)
        assert not set(got.open) & set(got.verdicts)
        assert set(got.verdicts) | set(got.open) >= set(tasks)
        return got


def sum_of(job: Job, *updates: tuple[float, float]) -> WeightedSum:
    """The sum of (value, weight) pairs, made by hand."""
    total = job.zero()
    for value, weight in updates:
        total.add("x", Update(delta(value), weight, {"loss": value}))
    return total


def same(a: WeightedSum, b: WeightedSum) -> bool:
    return (
        bool((a.total == b.total).all())
        and (a.weight_integer, a.clients) == (b.weight_integer, b.clients)
        and a.metrics == b.metrics
    )


def test_all_that_reply_are_counted() -> None:
    r = Round()
    for i, client in enumerate(r.clients):
        r.trains(client, 0.1 * i, 1.0 + i)
    got = r.run()
    assert same(got.total, sum_of(r.job, (0.0, 1.0), (0.1, 2.0), (0.2, 3.0)))
    assert set(got.fates.values()) == {Fate(Outcome.counted)}
    assert set(got.verdicts.values()) == {Verdict.counted}
    assert r.told == [("ann", Outcome.counted, 1), ("bob", Outcome.counted, 2), ("cay", Outcome.counted, 3)]
    assert [task.key.client for task in r.federation.sent] == ["ann", "bob", "cay"]


def test_a_failure_is_counted_and_logged_with_its_client_and_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    r = Round()
    r.trains("ann", 1.0)
    r.says("bob", Failure(r.key("bob"), "exception", "OSError", "", "Traceback\nOSError: disk on fire\n"))
    r.says("cay", Failure(r.key("cay"), "no_data", "ClientFailed", "examples"), 2.0)
    got = r.run()
    assert got.fates["bob"] == Fate(Outcome.failed, "exception: OSError: disk on fire")
    assert got.fates["cay"] == Fate(Outcome.failed, "no_data: ClientFailed: examples")
    assert got.verdicts[r.key("bob")] is Verdict.refused
    assert got.first_failure is not None
    assert got.first_failure.key.client == "bob"
    assert "client bob failed" in caplog.text
    assert "Traceback" in caplog.text
    assert same(got.total, sum_of(r.job, (1.0, 1.0)))


def test_exactly_as_many_are_counted_as_are_wanted() -> None:
    r = Round(want=2, alive=("cay",))
    r.trains("cay", 3.0, seconds=9.0)
    r.trains("bob", 2.0, seconds=2.0)
    r.trains("ann", 1.0, seconds=1.0)
    got = r.run()
    assert got.counted == 2
    assert got.fates["cay"] == Fate(Outcome.unwanted, "enough others were counted")
    assert got.verdicts[r.key("cay")] is Verdict.unwanted
    assert same(got.total, sum_of(r.job, (1.0, 1.0), (2.0, 1.0)))
    assert r.federation.now() == NOW + 2.0  # the round ends with the second


def test_who_is_refused_does_not_fill_a_place() -> None:
    r = Round(want=2)
    r.trains("ann", 1.0, weight=-1.0)
    r.trains("bob", 2.0, seconds=2.0)
    r.trains("cay", 3.0, seconds=3.0)
    got = r.run()
    assert [got.fates[c].outcome for c in r.clients] == ["refused", "counted", "counted"]


def test_no_reply_is_late_while_the_client_is_at_it_else_lost() -> None:
    r = Round(alive=("bob",))
    r.trains("ann", 1.0)
    r.trains("bob", 2.0, seconds=30.5)
    got = r.run()
    assert got.fates["bob"] == Fate(Outcome.late, "no reply before the round closed: bob was asked")
    assert got.fates["cay"] == Fate(Outcome.lost, "no reply before the round closed: cay was asked")
    assert got.verdicts[r.key("bob")] is Verdict.late
    assert got.verdicts[r.key("cay")] is Verdict.lost
    assert got.open == []


def test_a_reply_at_the_deadline_is_in_time() -> None:
    r = Round(clients=("ann",), want=1)
    r.trains("ann", 1.0, seconds=30.0)
    assert r.run().fates["ann"].outcome is Outcome.counted


def bad_replies() -> Iterator[tuple[str, EncodedUpdate, str]]:
    """What bob may send, and what the refusal must name."""
    r = Round()
    good = r.update("bob", 0.5)
    nan = np.array([0.0, math.nan, 0.0], np.float32).tobytes()
    huge = np.array([0.0, 0.0, 257.0], np.float32).tobytes()
    yield "nan", replace(good, payload=nan), "client 'bob' refused: payload: tensor 'w' holds nan"
    yield "huge", replace(good, payload=huge), "client 'bob' refused: 'b' holds 257, beyond"
    yield "negative weight", replace(good, weight=-1.0), "client 'bob' refused: 'weight' is -1.0"
    yield "absurd weight", replace(good, weight=65.0), "client 'bob' refused: 'weight' is 65, above"
    yield "nan weight", replace(good, weight=math.nan), "client 'bob' refused: 'weight' is nan"
    yield "nan metric", replace(good, metrics={"loss": math.nan}), "client 'bob' refused: 'loss' is nan"
    yield "partial", replace(good, work=0.5), "client 'bob' refused: 'work' is 0.5: Mean does not accept"
    yield "codec", replace(good, codec="zip"), "client 'bob' refused: codec 'zip', the job uses 'none'"
    yield "truncated", replace(good, payload=good.payload[:-1]), "client 'bob' refused: payload"
    yield "longer", replace(good, payload=good.payload + b"\0"), "payload"
    yield "empty", replace(good, payload=b""), "payload"


@pytest.mark.parametrize(("reply", "why"), [pytest.param(r, w, id=name) for name, r, w in bad_replies()])
def test_a_bad_update_is_refused_by_name_and_the_sum_is_that_of_the_others(
    reply: EncodedUpdate, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    r = Round()
    r.trains("ann", 1.0, 2.0)
    r.says("bob", reply, 2.0)
    r.trains("cay", 3.0, 4.0, seconds=3.0)
    got = r.run()
    assert got.fates["bob"].outcome is Outcome.refused
    assert why in got.fates["bob"].why
    assert got.verdicts[r.key("bob")] is Verdict.refused
    assert why in caplog.text
    assert same(got.total, sum_of(r.job, (1.0, 2.0), (3.0, 4.0)))


@pytest.mark.parametrize(("reply", "why"), [pytest.param(r, w, id=name) for name, r, w in bad_replies()])
def test_a_rule_that_needs_each_update_is_shown_none_of_the_bad_ones(reply: EncodedUpdate, why: str) -> None:
    r = Round(strategy=Median())
    r.trains("ann", 1.0)
    r.says("bob", reply)
    got = r.run()
    assert got.fates["bob"].outcome is Outcome.refused
    assert Median.seen == ["ann"]


def test_partial_work_is_welcome_where_the_strategy_says_so() -> None:
    r = Round(strategy=Patient())
    r.says("ann", r.update("ann", 1.0, work=0.25))
    got = r.run()
    assert got.fates["ann"].outcome is Outcome.counted
    assert same(got.total, sum_of(r.job, (1.0, 1.0)))


def test_a_second_copy_changes_nothing() -> None:
    r = Round()
    for seconds in (1.0, 2.0, 3.0):
        r.trains("ann", 1.0, seconds=seconds)
    r.says("bob", Failure(r.key("bob"), "exception"), 4.0)
    r.trains("bob", 1.0, seconds=5.0)  # after its failure
    got = r.run()
    assert got.counted == 1
    assert got.fates["bob"].outcome is Outcome.failed
    assert same(got.total, sum_of(r.job, (1.0, 1.0)))


def test_a_reply_that_nobody_waits_for_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    r = Round(clients=("ann",), want=1)
    r.says("dan", r.update("dan", 9.0, round=2), 0.5, round=2)
    r.trains("ann", 1.0)
    with caplog.at_level("INFO", logger="fedkit"):
        got = r.run()
    assert got.verdicts[r.key("dan", 2)] is Verdict.late
    assert "client dan: reply to round 3 came too late" in caplog.text
    assert same(got.total, sum_of(r.job, (1.0, 1.0)))


# Carried updates


def carrying(rounds: int = 3, expires: float = 1e3, strategy: Strategy | None = None) -> Round:
    """Round 5, in which dan's reply to round 3 may still come."""
    key = Key("job", 3, "train", "", 0, "dan")
    return Round(strategy or Mean(), ("ann",), 1, carried={key: expires}, carry_rounds=rounds, alive=("ann",))


def test_a_late_update_is_left_open_when_it_may_be_carried() -> None:
    r = Round(carry_rounds=3, alive=("bob",))
    r.trains("ann", 1.0)
    got = r.run()
    assert got.fates["bob"].outcome is Outcome.late
    assert got.fates["cay"].outcome is Outcome.lost
    assert got.open == [r.key("bob")]


def test_a_carried_update_joins_with_the_stated_weight() -> None:
    r = carrying()
    r.says("dan", r.update("dan", 5.0, 8.0, round=3), 0.5, round=3)
    r.trains("ann", 1.0, 2.0)
    got = r.run()
    factor = (1 + 2) ** -0.5
    assert same(got.total, sum_of(r.job, (5.0, 8.0 * factor), (1.0, 2.0)))
    share = 8.0 * np.float32(factor) / (8.0 * np.float32(factor) + 2.0)
    assert got.total.mean()["w"] == pytest.approx(5.0 * share + 1.0 * (1 - share), rel=1e-6)
    assert got.carried["dan"].round == 3
    assert got.carried["dan"].outcome is Outcome.counted
    assert got.carried["dan"].why == "2 rounds late, weight x 0.577"
    assert got.verdicts[r.key("dan", 3)] is Verdict.counted
    assert got.counted == 1  # it takes nobody's place, and does not help the quorum
    assert got.total.clients == 2


def test_a_carried_update_may_be_a_share_of_the_work_only_where_that_is_welcome() -> None:
    for strategy, outcome in ((Mean(), Outcome.refused), (Patient(), Outcome.counted)):
        r = carrying(strategy=strategy)
        r.says("dan", r.update("dan", 5.0, round=3, work=0.5), 0.5, round=3)
        assert r.run().carried["dan"].outcome is outcome


@pytest.mark.parametrize("weight", [-1.0, 1000.0])
def test_a_carried_update_is_checked_as_any_other(weight: float) -> None:
    r = carrying()
    r.says("dan", replace(r.update("dan", 5.0, round=3), weight=weight), 0.5, round=3)
    r.trains("ann", 1.0)
    got = r.run()
    assert got.carried["dan"].outcome is Outcome.refused
    assert "'dan'" in got.carried["dan"].why
    assert got.verdicts[r.key("dan", 3)] is Verdict.refused
    assert same(got.total, sum_of(r.job, (1.0, 1.0)))


def test_a_carried_client_may_fail() -> None:
    r = carrying()
    r.says("dan", Failure(r.key("dan", 3), "exception", "OSError"), 0.5, round=3)
    r.trains("ann", 1.0)
    got = r.run()
    assert got.carried["dan"].outcome is Outcome.failed
    assert got.carried["dan"].why == "exception: OSError"


def test_a_carried_update_that_does_not_come_stays_open_until_it_expires() -> None:
    r = carrying(rounds=3)
    assert sorted(r.run().open) == [r.key("dan", 3), r.key("ann")]
    for expired in (carrying(rounds=2), carrying(expires=NOW + 30.0)):
        got = expired.run()
        assert got.verdicts[r.key("dan", 3)] is Verdict.lost
        assert got.carried["dan"].outcome is Outcome.lost
        assert got.carried["dan"].why == "its task has expired"


def test_without_a_cohort_carried_updates_still_come() -> None:
    r = carrying()
    r = replace(r, clients=(), want=0, carried=dict(r.carried), replies=[], told=[])
    r.says("dan", r.update("dan", 5.0, round=3), 2.0, round=3)
    got = r.run()
    assert got.carried["dan"].outcome is Outcome.counted
    assert why_failed(got, r.plan) == ""


# Rules that need each update


def test_a_rule_that_needs_each_update_gets_all_of_them_sorted() -> None:
    r = Round(strategy=Median())
    r.trains("cay", 100.0, seconds=1.0)
    r.trains("ann", 1.0, seconds=3.0)
    r.trains("bob", 2.0, seconds=2.0)
    got = r.run()
    assert Median.seen == ["ann", "bob", "cay"]
    assert got.total.mean()["w"].tolist() == [2.0, 2.0]
    assert got.counted == 3


# Partial sums


def partial(r: Round, clients: Sequence[ClientId], values: Mapping[ClientId, float]) -> Partial:
    keys = tuple(r.key(client) for client in clients)
    return Partial(keys[0], sum_of(r.job, *((value, 1.0) for value in values.values())), keys)


def test_a_partial_sum_counts_all_its_members() -> None:
    r = Round()
    r.says("ann", partial(r, ["ann", "cay"], {"ann": 1.0, "cay": 3.0}))
    r.trains("bob", 2.0, seconds=2.0)
    got = r.run()
    assert same(got.total, sum_of(r.job, (1.0, 1.0), (2.0, 1.0), (3.0, 1.0)))
    assert got.counted == 3
    assert {fate.outcome for fate in got.fates.values()} == {Outcome.counted}


@pytest.mark.parametrize(
    ("members", "values", "why"),
    [
        (["ann", "bob"], {"ann": 1.0}, "a partial sum of 1 updates that names 2"),
        (["ann", "ann"], {"ann": 1.0, "bob": 1.0}, "a partial sum of 2 updates that names 1"),
        (["ann", "eve"], {"ann": 1.0, "eve": 1.0}, "not asked"),
        (["ann", "cay"], {"ann": 1.0, "cay": 1.0}, "judged already"),
    ],
)
def test_a_partial_sum_that_is_not_that_of_its_members_is_refused_whole(
    members: list[ClientId], values: Mapping[ClientId, float], why: str
) -> None:
    r = Round()
    r.trains("cay", 3.0, seconds=0.5)
    r.says("ann", partial(r, members, values))
    got = r.run()
    assert got.fates["ann"].outcome is Outcome.refused
    assert why in got.fates["ann"].why
    assert got.counted == 1
    assert same(got.total, sum_of(r.job, (3.0, 1.0)))


def test_a_partial_sum_of_another_grid_is_refused() -> None:
    r = Round()
    other = WeightedSum(LAYOUT, Grid(128, 256))
    other.add("ann", Update(delta(1.0), 1.0))
    r.says("ann", Partial(r.key("ann"), other, (r.key("ann"),)))
    got = r.run()
    assert got.fates["ann"].outcome is Outcome.refused
    assert "another layout or grid" in got.fates["ann"].why


def test_a_partial_sum_is_no_use_to_a_rule_that_needs_each_update() -> None:
    r = Round(strategy=Median())
    r.says("ann", partial(r, ["ann"], {"ann": 1.0}))
    got = r.run()
    assert got.fates["ann"] == Fate(Outcome.refused, "a partial sum, but the strategy needs each update")


# What a round comes to


def test_below_the_quorum_a_round_has_failed() -> None:
    r = Round(quorum=2)
    r.trains("ann", 1.0)
    got = r.run()
    assert why_failed(got, r.plan) == "1 of 3 invited clients were counted, the quorum is 2"
    assert why_failed(got, replace(r.plan, quorum=1)) == ""


def test_carried_updates_count_towards_the_quorum() -> None:
    r = carrying()
    r.says("dan", r.update("dan", 5.0, round=3), 0.5, round=3)
    got = r.run()
    assert got.counted == 0
    assert why_failed(got, r.plan) == ""
    assert why_failed(got, replace(r.plan, quorum=2)) == (
        "0 of 1 invited clients and 1 late were counted, the quorum is 2"
    )


def test_a_sum_without_weight_is_a_failed_round() -> None:
    r = Round()
    r.trains("ann", 1.0, weight=0.0)
    assert why_failed(r.run(), r.plan) == "the weights of all counted updates are zero"


def test_a_round_without_clients_has_failed() -> None:
    r = Round(clients=(), want=0)
    got = r.run()
    assert why_failed(got, r.plan) == "no client could be reached"
    assert r.federation.now() == NOW + 30.0


def test_when_every_client_failed_the_first_cause_is_told() -> None:
    r = Round()
    trace = 'Traceback:\n  File "/home/me/my.py", line 7, in train\n    x\n'
    for seconds, client in enumerate(("cay", "ann", "bob")):
        failure = Failure(r.key(client), "exception", "KeyError", "", f"{trace}KeyError: {client}")
        r.says(client, failure, float(seconds))
    assert fatal_cause(r.run(), 1) == (
        "all 3 clients of the round failed, 'cay' first: exception: KeyError: cay (/home/me/my.py:7)"
    )


def test_one_client_that_did_not_fail_is_enough_to_go_on() -> None:
    r = Round(clients=("ann", "bob"))
    r.says("ann", Failure(r.key("ann"), "exception"))
    r.trains("bob", 1.0)
    assert fatal_cause(r.run(), 1) == ""
    assert fatal_cause(Round(clients=(), want=0).run(), 1) == ""


def test_a_dropout_does_not_hide_that_all_who_answered_failed() -> None:
    r = Round(clients=("ann", "bob"), alive=("bob",))
    r.says("ann", Failure(r.key("ann"), "exception"))
    assert "1 client answered and failed, 1 did not answer" in fatal_cause(r.run(), 1)
    few = Round(clients=("ann", "bob", "cay"))
    few.says("ann", Failure(few.key("ann"), "exception"))
    assert fatal_cause(few.run(), 1) == ""  # most are missing: one device alone decides nothing


@pytest.mark.parametrize(("fewest", "fatal"), [(0, False), (1, True), (2, True), (3, False)])
def test_too_few_clients_end_no_run_whatever_they_say(fewest: int, fatal: bool) -> None:
    r = Round(clients=("ann", "bob"))
    for client in ("ann", "bob"):
        r.says(client, Failure(r.key(client), "exception"))
    assert bool(fatal_cause(r.run(), fewest)) is fatal


def test_a_failed_round_tells_nobody_that_it_was_counted() -> None:
    r = Round()
    r.trains("ann", 1.0)
    got = r.run()
    assert verdicts(got, ok=True)[r.key("ann")] is Verdict.counted
    told = verdicts(got, ok=False)
    assert told[r.key("ann")] is Verdict.unwanted
    assert told[r.key("bob")] is Verdict.lost


@pytest.mark.parametrize(("codec", "hint"), [("none", False), ("int8", True)])
def test_an_update_that_its_codec_took_beyond_the_grid_is_refused_with_the_way_out(
    codec: str, hint: bool
) -> None:
    """What was sent without a codec is as its client made it."""
    r = Round()
    r.job = replace(r.job, codec_up=plugins.codec(codec))
    r.trains("ann", 1e6)
    why = r.run().fates["ann"].why
    assert "beyond the run's limit" in why
    assert (f"codec {codec!r} overshoots, raise aggregate.max_delta" in why) is hint
