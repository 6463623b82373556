"""The simulated federation: arrival times by hand, nobody trained in vain, and a clock that is saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from fedkit import Grid, RoundPolicy, Strategy, run, wire
from fedkit.codecs import Codec, CodecContext
from fedkit.codecs.none import Plain
from fedkit.config import Devices, Links
from fedkit.errors import ConfigError
from fedkit.federation import Verdict
from fedkit.history import Outcome
from fedkit.job import Job
from fedkit.messages import (
    ClientId,
    EncodedUpdate,
    Failure,
    Key,
    Kind,
    Metrics,
    Pass,
    Settings,
    Task,
    Trained,
)
from fedkit.tensors import Layout, Tensors, digest
from fedkit.trainer import Correct
from fedkit_simulations.engine import Simulation
from fedkit_simulations.journeys import REPLY_FRAME
from fedkit_strategies import FedAvg, FedProx

MODEL = {"w": np.zeros(50, np.float32)}
LINKS = Links(profile="custom", up=100.0, down=1000.0, latency=0.5)
DEVICES = Devices(profile="custom", speed=10.0)
UP = 0.5 + (REPLY_FRAME + 200) / 100.0


@dataclass
class Counted:
    """A trainer that counts how often it is asked to train."""

    examples: int
    calls: list[Task] = field(default_factory=list)
    error: Exception | None = None

    def train(self, pass_: Pass, task: Task, correct: Correct | None) -> Trained:
        self.calls.append(task)
        if self.error:
            raise self.error
        delta = {"w": np.full(50, 0.1, np.float32)}
        return Trained(delta, 1, float(self.examples), {"loss": 1 / 3})

    def evaluate(self, model: Tensors) -> tuple[Metrics, int]:
        return {"loss": 1.0}, self.examples


@dataclass
class Work:
    made: Mapping[ClientId, Counted]

    def init(self, seed: int) -> Tensors:
        return MODEL

    def clients(self) -> Sequence[ClientId]:
        return list(self.made)

    def trainer(self, client: ClientId) -> Counted:
        return self.made[client]

    def evaluate(self, model: Tensors) -> Metrics:
        return {}

    def trained(self) -> list[ClientId]:
        return [client for client, trainer in self.made.items() if trainer.calls]


class Bench:
    """A simulation of clients with so many examples each, opened for one job."""

    def __init__(
        self,
        examples: Mapping[ClientId, int],
        strategy: Strategy | None = None,
        links: Links = LINKS,
        devices: Devices = DEVICES,
        codec: Codec | None = None,
    ) -> None:
        self.work = Work({client: Counted(n) for client, n in examples.items()})
        plain = Plain()
        self.job = Job(
            strategy or FedAvg(), codec or plain, plain, Layout.of(MODEL), Layout((), (), ()), Grid(), {}, 0
        )
        self.simulation = Simulation(self.work, links=links, devices=devices)
        self.simulation.open(self.job)

    def task(
        self,
        client: ClientId,
        round: int = 0,
        deadline: float = 100.0,
        kind: Kind = "train",
        settings: Settings | None = None,
    ) -> Task:
        key = Key(self.job.id, round, kind, "", 0, client)
        return Task(key, 1, MODEL, {}, settings or {}, 1, 1.0, deadline, "", deadline)

    def send(self, *clients: ClientId, deadline: float = 100.0, settings: Settings | None = None) -> None:
        self.simulation.send([self.task(c, deadline=deadline, settings=settings) for c in clients])

    def arrivals(self, until: float = 100.0) -> list[tuple[ClientId, float]]:
        return [(a.key.client, a.at) for a in self.simulation.receive(until)]

    def down(self, client: ClientId, deadline: float = 100.0) -> float:
        return 0.5 + wire.size(self.task(client, deadline=deadline)) / 1000.0


def test_a_reply_arrives_after_the_way_down_the_training_and_the_way_up() -> None:
    bench = Bench({"ann": 20, "bob": 5})
    bench.send("ann", "bob")
    expected = {c: bench.down(c) + n / 10.0 + UP for c, n in (("ann", 20), ("bob", 5))}
    arrived = bench.arrivals()
    assert [client for client, _ in arrived] == ["bob", "ann"]
    assert dict(arrived) == pytest.approx(expected, abs=1e-12)
    assert bench.simulation.now() == arrived[1][1]  # all are there: nothing to wait for


@pytest.mark.parametrize(
    ("settings", "examples"),
    [
        ({"epochs": 3}, 60),
        ({"steps": 7, "batch": 4}, 28),
        ({"steps": 7, "batch": 4, "epochs": 3}, 28),
        ({"steps": 2, "batch": 0}, 40),
        ({"steps": 2, "batch": 64}, 40),
        ({"steps": 0, "epochs": 2}, 40),
        ({"epochs": "many"}, 20),
        ({"epochs": -3, "steps": -1}, 20),
        ({"steps": "warm-up", "epochs": 2}, 40),
        ({"steps": 2, "batch": "all"}, 40),
    ],
)
def test_training_takes_as_long_as_the_examples_it_goes_through(settings: Settings, examples: int) -> None:
    bench = Bench({"ann": 20})
    task = bench.task("ann", deadline=1000.0, settings=settings)
    bench.simulation.send([task])
    ((_, at),) = bench.arrivals(1000.0)
    assert at == pytest.approx(0.5 + wire.size(task) / 1000.0 + examples / 10.0 + UP, abs=1e-12)


def test_bytes_are_those_of_the_real_frames() -> None:
    bench = Bench({"ann": 20})
    task = bench.task("ann")
    bench.simulation.send([task])
    assert bench.simulation.traffic().down == len(wire.encode(task))
    (arrival,) = bench.simulation.receive(100.0)
    assert isinstance(arrival.reply, EncodedUpdate)
    assert bench.simulation.traffic().up == len(wire.encode(arrival.reply))
    assert len(wire.encode(arrival.reply)) - len(arrival.reply.payload) <= REPLY_FRAME


def test_a_task_sent_twice_is_done_once() -> None:
    bench = Bench({"ann": 20})
    bench.send("ann")
    down = bench.simulation.traffic().down
    bench.send("ann")
    assert bench.simulation.traffic().down == down
    assert len(bench.arrivals()) == 1
    bench.send("ann")  # answered, but without a verdict
    assert bench.arrivals() == []
    assert len(bench.work.made["ann"].calls) == 1


# Nobody is trained in vain


def test_who_cannot_be_in_time_is_not_trained() -> None:
    bench = Bench({"ann": 20, "bob": 5})
    bench.send("ann", "bob", deadline=7.0)
    ((client, at),) = bench.arrivals(7.0)
    assert client == "bob"
    assert at == pytest.approx(bench.down("bob", 7.0) + 0.5 + UP)
    assert at + 1.5 > 7.0  # ann's would come then
    assert bench.work.trained() == ["bob"]
    assert bench.simulation.now() == 7.0
    (standing,) = bench.simulation.outstanding().values()
    assert standing.alive


def test_who_comes_after_enough_others_is_not_trained() -> None:
    """All are alike, so all would arrive at the same time; only as many are trained as are taken."""
    bench = Bench({f"c{i}": 20 for i in range(8)})
    bench.send(*bench.work.made)
    taken = list(islice(bench.simulation.receive(100.0, 3), 3))
    assert [a.key.client for a in taken] == ["c0", "c1", "c2"]
    assert bench.work.trained() == ["c0", "c1", "c2"]


@pytest.mark.parametrize("evaluate_on", ["server", "clients"])
def test_a_round_with_over_selection_trains_exactly_whom_it_counts(
    evaluate_on: Literal["server", "clients"],
) -> None:
    work = Work({f"c{i}": Counted(10 + i % 3) for i in range(12)})
    policy = RoundPolicy(cohort=4, over_select=2.0)
    federation = Simulation(work, links=LINKS, devices=DEVICES)
    result = run("fedavg", work, federation, rounds=5, policy=policy, evaluate_on=evaluate_on)
    assert [r.count(Outcome.counted) for r in result.history.rounds] == [4] * 5
    assert [r.count(Outcome.unwanted) for r in result.history.rounds] == [4] * 5
    assert sum(len(trainer.calls) for trainer in work.made.values()) == 20


def test_crashed_and_late_clients_are_not_trained_in_a_run() -> None:
    work = Work({f"c{i}": Counted(20) for i in range(10)} | {"slow": Counted(10_000)})
    devices = replace(DEVICES, drop=0.4)
    policy = RoundPolicy(deadline=50.0)
    result = run("fedavg", work, Simulation(work, links=LINKS, devices=devices), rounds=4, policy=policy)
    counted = sum(r.count(Outcome.counted) for r in result.history.rounds)
    assert sum(len(trainer.calls) for trainer in work.made.values()) == counted
    assert result.summary["clients_lost"] > 0
    assert result.summary["clients_late"] > 0
    assert all(r.virtual_end - r.virtual_start == 50.0 for r in result.history.rounds)


class Growing(Plain):
    """A codec whose payload has up to 1000 blanks at its end, more for smaller seeds."""

    id: ClassVar[str] = "growing"

    @property
    def fixed_size(self) -> bool:
        return False

    def encode(self, delta: Tensors, layout: Layout, ctx: CodecContext) -> bytes:
        return super().encode(delta, layout, ctx) + bytes(1000 - 100 * ctx.seed)

    def max_len(self, layout: Layout) -> int:
        return layout.nbytes + 1000


def test_a_payload_of_variable_size_arrives_when_its_last_byte_does() -> None:
    bench = Bench({"ann": 20, "bob": 20}, codec=Growing())
    tasks = [replace(bench.task("ann"), seed=2), replace(bench.task("bob"), seed=7)]
    bench.simulation.send(tasks)
    arrived = bench.arrivals()
    assert [client for client, _ in arrived] == ["bob", "ann"]
    for (client, at), blanks in zip(arrived, (300, 800), strict=True):
        assert at == pytest.approx(bench.down(client) + 2.0 + UP + blanks / 100.0, abs=1e-12)


# Failures, crashes, time


def test_a_client_whose_code_raises_answers_with_a_failure_and_the_order_of_arrivals_holds() -> None:
    bench = Bench({"ann": 20, "bob": 18})
    bench.work.made["ann"].error = OSError("disk on fire")
    bench.send("ann", "bob")
    arrivals = list(bench.simulation.receive(100.0))
    assert [type(a.reply) for a in arrivals] == [EncodedUpdate, Failure]
    assert arrivals[0].at <= arrivals[1].at == bench.simulation.now()


def test_a_crashed_client_never_answers_and_is_not_alive() -> None:
    bench = Bench({"ann": 20}, devices=replace(DEVICES, drop=1.0, drop_after=0.0))
    bench.send("ann")
    assert bench.arrivals() == []
    assert bench.simulation.now() == 100.0  # the server cannot know, and waits
    (standing,) = bench.simulation.outstanding().values()
    assert (standing.alive, standing.note) == (False, "crashed before training")
    assert bench.work.trained() == []


def test_with_nothing_under_way_time_passes() -> None:
    bench = Bench({"ann": 20})
    assert bench.arrivals(42.0) == []
    assert bench.simulation.now() == 42.0
    assert bench.arrivals(7.0) == []
    assert bench.simulation.now() == 42.0  # never back


def test_a_caller_that_stops_early_stops_the_clock_there() -> None:
    bench = Bench({"ann": 20, "bob": 5})
    bench.send("ann", "bob")
    first = next(iter(bench.simulation.receive(100.0)))
    assert bench.simulation.now() == first.at


def test_a_late_reply_comes_when_it_is_ready() -> None:
    bench = Bench({"ann": 20})
    bench.send("ann")
    expected = bench.down("ann") + 2.0 + UP
    assert bench.arrivals(expected - 0.01) == []
    assert bench.simulation.now() == expected - 0.01
    ((_, at),) = bench.arrivals(100.0)
    assert at == pytest.approx(expected)


def test_a_settled_task_is_gone() -> None:
    bench = Bench({"ann": 20})
    bench.send("ann")
    key = bench.task("ann").key
    bench.simulation.settle({key: Verdict.late})
    bench.simulation.settle({key: Verdict.late})
    assert bench.simulation.outstanding() == {}
    assert bench.arrivals() == []
    assert bench.work.trained() == []


# Evaluation


def test_an_evaluation_sends_the_model_down_and_figures_up() -> None:
    bench = Bench({"ann": 20})
    task = bench.task("ann", kind="evaluate", settings={"epochs": 5})
    bench.simulation.send([task])
    ((_, at),) = bench.arrivals()
    expected = 0.5 + wire.size(task) / 1000.0 + 20 / 10.0 + 0.5 + REPLY_FRAME / 100.0
    assert at == pytest.approx(expected, abs=1e-12)


def test_nobody_crashes_or_dawdles_in_an_evaluation() -> None:
    bench = Bench({"ann": 20}, devices=replace(DEVICES, drop=1.0, stragglers=1.0))
    bench.simulation.send([bench.task("ann", kind="evaluate")])
    assert len(bench.arrivals()) == 1


# Partial work


def test_a_device_too_slow_for_the_deadline_does_what_fits_where_that_is_welcome() -> None:
    bench = Bench({"ann": 1000}, FedProx())
    bench.send("ann", deadline=50.0)
    ((_, at),) = bench.arrivals(50.0)
    assert at == pytest.approx(50.0, abs=1e-5)
    assert at <= 50.0
    (task,) = bench.work.made["ann"].calls
    assert task.work == pytest.approx((50.0 - bench.down("ann", 50.0) - UP) / 100.0)


def test_it_is_late_where_it_is_not() -> None:
    bench = Bench({"ann": 1000}, FedAvg())
    bench.send("ann", deadline=50.0)
    assert bench.arrivals(50.0) == []
    assert bench.work.trained() == []


def test_who_cannot_even_send_in_time_is_late_with_the_whole_work() -> None:
    bench = Bench({"ann": 1000}, FedProx())
    bench.send("ann", deadline=2.0)
    assert bench.arrivals(2.0) == []
    ((_, at),) = bench.arrivals(1000.0)
    assert at == pytest.approx(bench.down("ann", 2.0) + 100.0 + UP)


def test_stragglers_are_counted_by_fedprox_and_lost_to_fedavg() -> None:
    devices = replace(DEVICES, stragglers=0.5)
    settings: Settings = {"epochs": 10}
    outcomes = {}
    for strategy in (FedAvg(), FedProx()):
        work = Work({f"c{i}": Counted(20) for i in range(10)})
        federation = Simulation(work, links=LINKS, devices=devices)
        result = run(strategy, work, federation, rounds=3, train=settings, policy=RoundPolicy(deadline=60.0))
        outcomes[type(strategy)] = [
            (r.count(Outcome.counted), r.count(Outcome.late)) for r in result.history.rounds
        ]
        works = [task.work for trainer in work.made.values() for task in trainer.calls]
        assert (min(works) < 1.0) == strategy.accepts_partial_work
    assert outcomes == {FedAvg: [(5, 5)] * 3, FedProx: [(10, 0)] * 3}


# Who is there, and what is saved


def test_a_workload_without_clients_cannot_be_simulated() -> None:
    with pytest.raises(ConfigError, match="no clients"):
        Simulation(Work({}))


@pytest.mark.parametrize(
    ("links", "devices", "says"),
    [
        (Links(profile="custom"), DEVICES, r"links\.up"),
        (LINKS, Devices(profile="custom"), r"devices\.speed"),
        (LINKS, replace(DEVICES, drop=1.5), r"devices\.drop"),
    ],
)
def test_settings_that_cannot_be_are_errors_before_the_run(links: Links, devices: Devices, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Simulation(Work({"ann": Counted(1)}), links=links, devices=devices)


def test_clients_come_and_go_with_the_clock() -> None:
    devices = replace(DEVICES, availability="markov", on_seconds=50.0, off_seconds=50.0)
    bench = Bench({f"c{i:02d}": 1 for i in range(40)}, devices=devices)
    first = bench.simulation.clients()
    assert list(first) == sorted(first)
    assert bench.simulation.clients() == first  # no time has passed
    assert bench.arrivals(100.0) == []
    later = bench.simulation.clients()
    assert set(first) != set(later)
    assert 5 < len(later) < 35


def test_one_simulation_serves_one_run_after_another() -> None:
    work = Work({f"c{i}": Counted(5 + i) for i in range(10)})
    devices = replace(DEVICES, drop=0.3, availability="markov", on_seconds=20.0, off_seconds=20.0)
    simulation = Simulation(work, links=LINKS, devices=devices)
    policy = RoundPolicy(cohort=4, deadline=6.5, late="carry", max_failures=9)
    results = [run("fedavg", work, simulation, rounds=6, policy=policy) for _ in range(2)]
    assert digest(results[0].model) == digest(results[1].model)
    a, b = ([replace(r, wall_seconds=0.0) for r in result.history.rounds] for result in results)
    assert a == b
    assert a[0].virtual_start == 0.0


def test_a_simulation_continues_from_what_it_saved() -> None:
    """Saved with tasks on their way, crashed, answered and not, and with memory that waits."""
    devices = replace(DEVICES, drop=0.3, availability="markov", on_seconds=20.0, off_seconds=20.0)
    examples = {f"c{i}": 10 * i for i in range(1, 10)}

    def rest(bench: Bench) -> tuple[object, ...]:
        arrived = bench.arrivals(20.0)
        clients = list(bench.simulation.clients())
        return arrived, clients, bench.simulation.now(), bench.simulation.traffic()

    first = Bench(examples, devices=devices)
    first.simulation.clients()
    first.send(*examples)
    first.arrivals(8.0)
    saved = first.simulation.save()
    second = Bench(examples, devices=devices)
    second.simulation.load(saved)
    assert second.simulation.outstanding() == first.simulation.outstanding()
    assert rest(second) == rest(first)
    assert len(second.arrivals(1e3)) == len(first.arrivals(1e3))


@pytest.mark.parametrize("held", ["many", None, float("nan"), float("inf"), -3])
def test_a_client_that_holds_nonsense_takes_no_time(held: Any) -> None:
    bench = Bench({"ann": held})
    bench.send("ann")
    assert bench.arrivals()[0][1] == pytest.approx(bench.down("ann") + UP)


def test_rates_and_epochs_that_are_all_but_infinite_do_not_stop_the_clock() -> None:
    links = replace(LINKS, up=1e15, down=1e15, spread=10.0)
    bench = Bench({"ann": 20, "bob": 20}, FedProx(), links, replace(DEVICES, stragglers=1.0))
    bench.send("ann", "bob", deadline=1e12, settings={"epochs": 2**62})
    assert len(bench.arrivals(1e12)) == 2
