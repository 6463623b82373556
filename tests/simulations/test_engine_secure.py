"""Secure sessions on the virtual clock: who answers when, by hand, and which devices crash at which stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from fedkit import RoundPolicy, run, wire
from fedkit.config import Devices, Links
from fedkit.conformance.laws import restored, same
from fedkit.federation import Arrival, Request, server_trust
from fedkit.history import Outcome, RoundRecord
from fedkit.messages import ClientId, Failure, Key, Metrics, Pass, Task, Trained
from fedkit.secagg.client import SecAggClient
from fedkit.secagg.closing import Masked
from fedkit.secagg.messages import FromClient, FromServer, Stage
from fedkit.secagg.parameters import Policy
from fedkit.secagg.settings import SecAgg
from fedkit.tensors import Tensors
from fedkit.trainer import Correct
from fedkit_simulations.devices import Fleet
from fedkit_simulations.engine import Simulation
from fedkit_simulations.identities import Identities

NAMES = ("ann", "bob", "cay")
LINKS = Links(profile="custom", up=10_000.0, down=20_000.0, latency=0.25)
DEVICES = Devices(profile="custom", speed=10.0)
SECRET = SecAgg(Policy(dropout=0.0, smallest=3), width=64, verify=True)
TRAINING = 8.0  # seconds: 80 examples, 10 in a second


@dataclass
class Trainer:
    examples: int = 80
    trained: list[Task] = field(default_factory=list)

    def train(self, pass_: Pass, task: Task, correct: Correct | None) -> Trained:
        self.trained.append(task)
        return Trained({"w": np.full(50, task.work, np.float32)}, 1, 80.0, {"loss": 1.0})

    def evaluate(self, model: Tensors) -> tuple[Metrics, int]:
        return {"loss": 1.0}, 80


@dataclass
class Work:
    trainers: Mapping[ClientId, Trainer] = field(default_factory=lambda: {name: Trainer() for name in NAMES})

    def init(self, seed: int) -> Tensors:
        return {"w": np.zeros(50, np.float32)}

    def clients(self) -> Sequence[ClientId]:
        return list(self.trainers)

    def trainer(self, client: ClientId) -> Trainer:
        return self.trainers[client]

    def evaluate(self, model: Tensors) -> Metrics:
        return {}


class Heard(Simulation):
    """Notes when what was sent, and when what came."""

    def __init__(self, work: Work, **more: Any) -> None:
        super().__init__(work, **more)
        self.sent: dict[Key, tuple[float, Request]] = {}
        self.came: dict[Key, Arrival] = {}

    def send(self, requests: Any) -> None:
        fresh = list(requests)
        self.sent |= {request.key: (self.now(), request) for request in fresh}
        super().send(fresh)

    def receive(self, until: float, want: int | None = None) -> Any:
        for arrival in super().receive(until, want):
            self.came[arrival.key] = arrival
            yield arrival

    def one(self, stage: Stage, client: ClientId = "ann") -> tuple[float, FromServer, Arrival]:
        """When a request of round 0 left, the request, and its answer."""
        (key,) = (k for k in self.came if (k.round, k.stage, k.client) == (0, stage, client))
        at, request = self.sent[key]
        assert isinstance(request, FromServer)
        return at, request, self.came[key]


def go(federation: Simulation, work: Work, strategy: str = "fedavg", **more: Any) -> RoundRecord:
    result = run(
        strategy, work, federation, rounds=1, secagg=SECRET, policy=RoundPolicy(deadline=100.0), **more
    )
    return result.history.rounds[0]


def down(message: wire.Message) -> float:
    return 0.25 + wire.size(message) / 20_000


def up(message: wire.Message) -> float:
    return 0.25 + wire.size(message) / 10_000


def test_answers_take_what_their_bytes_take_and_the_masked_update_waits_for_training() -> None:
    work = Work()
    federation = Heard(work, links=LINKS, devices=DEVICES)
    record = go(federation, work)
    ((sent, task),) = (pair for key, pair in federation.sent.items() if key.client == "ann" and not key.stage)
    has_task = sent + down(task)
    trained = has_task + TRAINING
    for stage in Stage:
        at, request, arrival = federation.one(stage)
        ready = {Stage.advertise: has_task, Stage.mask: trained}.get(stage, 0.0)
        assert isinstance(arrival.reply, FromClient)
        assert arrival.at == pytest.approx(max(at + down(request), ready) + up(arrival.reply), abs=1e-9)
    assert federation.one(Stage.share)[2].at < trained
    assert record.virtual_end == federation.one(Stage.unmask, "cay")[2].at


def test_traffic_is_that_of_all_frames() -> None:
    work = Work()
    federation = Heard(work, links=LINKS, devices=DEVICES)
    record = go(federation, work)
    assert record.bytes_down == sum(wire.size(request) for _, request in federation.sent.values())
    replies = [arrival.reply for arrival in federation.came.values()]
    frames = sum(wire.size(reply) for reply in replies if isinstance(reply, FromClient))
    assert record.bytes_up == frames
    assert record.secagg is not None
    assert record.secagg.bytes_up == frames - 3 * 50 * 8
    tasks = sum(wire.size(request) for _, request in federation.sent.values() if isinstance(request, Task))
    assert record.secagg.bytes_down == record.bytes_down - tasks


def test_a_client_that_cannot_be_in_time_is_never_trained() -> None:
    work = Work({**{name: Trainer() for name in "abcd"}, "slow": Trainer(examples=10_000)})
    record = go(Simulation(work, links=LINKS, devices=DEVICES), work)
    assert record.fates["slow"].outcome is Outcome.late
    assert record.fates["slow"].why.startswith("at mask: no answer before the stage closed")
    assert not work.trainers["slow"].trained
    assert record.count(Outcome.counted) == 4


def test_a_strategy_that_takes_partial_work_gets_what_fits_before_masking_ends() -> None:
    work = Work({**{name: Trainer() for name in "abcd"}, "slow": Trainer(examples=1600)})
    federation = Heard(work, links=LINKS, devices=DEVICES)
    record = go(federation, work, "fedprox")
    assert record.fates["slow"].outcome is Outcome.counted
    (task,) = work.trainers["slow"].trained
    assert 0.4 < task.work < 0.5  # 160 seconds of work, 80 until masked updates are due
    assert federation.one(Stage.mask, "slow")[2].at <= 80.0


def test_tasks_of_sessions_are_not_waited_for() -> None:
    work = Work()
    federation = Simulation(work, links=LINKS, devices=DEVICES)
    record = go(federation, work)
    assert record.ok
    assert federation.outstanding() == {}


def test_crashes_are_spread_over_all_stages() -> None:
    fleet = Fleet(Devices(drop=0.5), NAMES, 0)
    drawn = Counter(fleet.crash_stage(round, "ann", 5) for round in range(1000))
    assert 400 < drawn.pop(None) < 600
    assert sorted(stage for stage in drawn if stage is not None) == [0, 1, 2, 3, 4]
    assert min(drawn.values()) > 60
    assert [fleet.crash_stage(r, "ann", 5) is None for r in range(99)] == [
        fleet.crash(r, "ann") is None for r in range(99)
    ]


def test_what_crashed_answers_nothing_for_the_rest_of_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Fleet,
        "crash_stage",
        lambda self, round, client, stages: 2 if client == "ann" and round == 0 else None,
    )
    work = Work({name: Trainer() for name in ("ann", "bob", "cay", "dan")})
    federation = Heard(work, links=LINKS, devices=DEVICES)
    result = run("fedavg", work, federation, rounds=2, secagg=SECRET, policy=RoundPolicy(deadline=100.0))
    asked = {key.stage for key in federation.sent if (key.round, key.client) == (0, "ann")}
    answered = {key.stage for key in federation.came if (key.round, key.client) == (0, "ann")}
    assert (asked - {""}, answered) == ({"advertise", "share", "mask"}, {"advertise", "share"})
    assert "its device has crashed" in result.history.rounds[0].fates["ann"].why
    assert result.history.rounds[1].fates["ann"].outcome is Outcome.counted


def test_measuring_does_not_crash() -> None:
    work = Work()
    federation = Simulation(work, links=LINKS, devices=replace(DEVICES, drop=1.0))
    result = run("fedavg", work, federation, rounds=0, secagg=SECRET, evaluate_on="clients", train={})
    assert result.history.initial == {"loss": 1.0}


def test_identities_follow_from_the_seed_alone() -> None:
    one, two, other = Identities(NAMES, 3), Identities(tuple(reversed(NAMES)), 3), Identities(NAMES, 4)
    assert one.trust().trust == two.trust().trust != other.trust().trust
    assert one.trust().trust.server == one.trust().signer.public
    for kind, round, attempt in (("train", 0, 0), ("train", 0, 1), ("train", 1, 0), ("evaluate", 0, 0)):
        drawn = [keys.trust().random(kind, round, attempt)(16) for keys in (one, two, other)]  # type: ignore[arg-type]
        assert drawn[0] == drawn[1] != drawn[2]
    secrets = {one.trust().random("train", r, a)(16) for r in range(3) for a in range(3)}
    assert len(secrets) == 9


def test_a_simulation_vouches_for_its_clients_before_it_is_opened() -> None:
    found = server_trust(Simulation(Work()))
    assert found is not None
    assert set(found.trust.roster) == set(NAMES)


def test_a_checkpoint_between_secure_rounds_holds_no_session() -> None:
    work, states = Work(), []
    federation = Simulation(work, links=LINKS, devices=DEVICES)

    class Saves:
        def round_ended(self, event: object) -> None:
            states.append(federation.save())

    run("fedavg", work, federation, rounds=2, secagg=SECRET, observers=[Saves()])
    for state in states:
        twin = Simulation(Work(), links=LINKS, devices=DEVICES)
        twin.open(federation._job)
        twin.load(restored(state))
        assert twin.outstanding() == {}
        assert same(restored(twin.save()), restored(state))


def test_a_plain_task_of_a_secure_job_comes_back_as_a_refusal() -> None:
    work = Work()
    federation = Heard(work, links=LINKS, devices=DEVICES)
    go(federation, work)
    (_, task), *_ = (pair for key, pair in federation.sent.items() if not key.stage)
    assert isinstance(task, Task)
    stray = replace(task, key=replace(task.key, round=7), session="")
    federation.send([stray])
    (arrival,) = federation.receive(federation.now() + 100)
    assert isinstance(arrival.reply, Failure)
    assert (arrival.reply.code, arrival.reply.subject) == ("refused", "session")


def test_masked_updates_are_made_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """All arrive at one time, and yet no two of them are held at once: each is known to be the next."""
    order: list[tuple[str, ClientId]] = []
    deliver, mask = Simulation._deliver, SecAggClient.mask

    def delivered(self: Simulation, flight: Any, reply: Any) -> Arrival:
        order.append((f"deliver {flight.request.key.stage}", flight.request.key.client))
        return deliver(self, flight, reply)

    def masked(self: SecAggClient, vector: Any, tail: Any) -> bytes:
        order.append(("mask", self._identity.client))
        return mask(self, vector, tail)

    monkeypatch.setattr(Simulation, "_deliver", delivered)
    monkeypatch.setattr(SecAggClient, "mask", masked)
    work = Work()
    go(Simulation(work, links=LINKS, devices=DEVICES), work)
    made = [entry for entry in order if entry[0] in ("mask", "deliver mask")]
    assert made == [(what, name) for name in NAMES for what in ("mask", "deliver mask")]


def test_the_size_of_a_masked_update_is_known_before_it_is_made() -> None:
    work = Work()
    federation = Heard(work, links=LINKS, devices=DEVICES)
    go(federation, work)
    reply = federation.one(Stage.mask)[2].reply
    assert isinstance(reply, FromClient)
    assert len(reply.body) == Masked.size(50 * 8, 2 + 2 * 2)
