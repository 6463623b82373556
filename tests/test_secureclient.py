"""A client's half of secure sessions: what it refuses, when it trains, what it keeps and what not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from fedkit.aggregate import Grid
from fedkit.clientstore import MemoryStore
from fedkit.codecs.none import Plain
from fedkit.errors import ClientFailed, ProtocolRefused
from fedkit.federation import Request, Verdict
from fedkit.job import Job
from fedkit.messages import ClientId, Failure, Key, Metrics, Pass, Task, Trained
from fedkit.participant import Answer, Participant
from fedkit.planning import train_seed
from fedkit.secagg.client import SecAggClient
from fedkit.secagg.header import Header
from fedkit.secagg.identity import AgreementKey, Floors
from fedkit.secagg.messages import FromClient, FromServer, Opening, Stage
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.server import SecAggServer
from fedkit.secagg.settings import SecAgg
from fedkit.secureclient import Credentials, SecureClients
from fedkit.securesession import deadlines
from fedkit.securesum import encoding_of, given_to_all
from fedkit.tensors import Layout, Tensors
from fedkit.trainer import Correct
from fedkit_simulations.identities import Identities
from fedkit_strategies import FedAvg, FedProx

NAMES = ("ann", "bob", "cay")
MODEL: Tensors = {"w": np.zeros(5, np.float32)}
SECRET = SecAgg(Policy(dropout=0.0), width=64, verify=True)


@dataclass
class Trainer:
    examples: int = 2
    calls: int = 0
    error: Exception | None = None
    done: list[Task] = field(default_factory=list)

    def train(self, pass_: Pass, task: Task, correct: Correct | None) -> Trained:
        self.calls += 1
        self.done.append(task)
        if self.error is not None:
            raise self.error
        return Trained({"w": np.ones(5, np.float32)}, 1, 2.0, {"loss": 0.5})

    def evaluate(self, model: Tensors) -> tuple[Metrics, int]:
        return {"loss": 0.25}, 2


@dataclass
class Work:
    trainers: Mapping[ClientId, Trainer] = field(default_factory=lambda: {name: Trainer() for name in NAMES})

    def init(self, seed: int) -> Tensors:
        return MODEL

    def clients(self) -> Sequence[ClientId]:
        return NAMES

    def trainer(self, client: ClientId) -> Trainer:
        return self.trainers[client]

    def evaluate(self, model: Tensors) -> Metrics:
        return {}


def make_job(secagg: SecAgg | None = SECRET) -> Job:
    layout = Layout.of(MODEL)
    return Job(
        FedAvg(), Plain(), Plain(), layout, Layout((), (), ()), Grid(2.0), {}, 0, cohort=3, secagg=secagg
    )


def task(job: Job, client: ClientId, session: str = "aa", round: int = 0) -> Task:
    key = Key(job.id, round, "train", "", 0, client)
    return Task(key, 1, MODEL, {}, {}, train_seed(0, round, client), 1.0, 100.0, session, 80.0)


class Bench:
    """Three clients in one process, and a server for each session."""

    def __init__(
        self, job: Job | None = None, change: Callable[[Credentials], Credentials | None] = lambda who: who
    ) -> None:
        self.job, self.work = job if job is not None else make_job(), Work()
        self.keys = Identities(NAMES, 0)
        credentials = self.keys.credentials(self.job)
        made = change(credentials) if credentials is not None else None
        self.clients = Participant(self.job, self.work, MemoryStore(), made)

    def hold(self) -> None:
        for name in NAMES:
            assert self.clients.handle(task(self.job, name)) == []

    def server(
        self, attempt: int = 0, policy: Policy = SECRET.policy, model: Tensors = MODEL
    ) -> SecAggServer:
        trust, agreement = self.keys.trust(), AgreementKey.new()
        header = Header(
            suite=SECRET.suite,
            sid=bytes([attempt]) * 32,
            job=self.job.id,
            round=0,
            kind="train",
            attempt=attempt,
            model=given_to_all(replace(task(self.job, NAMES[0]), model=model)),
            encoding=encoding_of(self.job, "train", 0, 0.0),
            policy=policy,
            clients=3,
            explicit=None,
            deadlines=deadlines(0.0, 100.0),
            identities="roster",
            server=agreement.public,
        )
        return SecAggServer(header, trust.trust, NAMES, signer=trust.signer, agreement=agreement)

    def ask(self, request: Request) -> Answer:
        (reply,) = self.clients.handle(request)
        assert reply.key == request.key
        return reply

    def stage(self, server: SecAggServer) -> list[Answer]:
        """One stage; good answers are taken."""
        replies = []
        for name, body in server.outbox().items():
            key = Key(self.job.id, 0, "train", server.stage, server.header.attempt, name)
            replies.append(self.ask(FromServer(key, body)))
            if isinstance(replies[-1], FromClient):
                server.receive(name, replies[-1].body)
        return replies

    def play(self, server: SecAggServer, until: Stage | None = None) -> None:
        """Whole stages, up to one that is not begun."""
        while not server.done and server.stage is not until:
            self.stage(server)
            server.advance()

    @property
    def calls(self) -> list[int]:
        return [trainer.calls for trainer in self.work.trainers.values()]


def refused(reply: Answer) -> str:
    """The rule that the server broke."""
    assert isinstance(reply, Failure)
    assert (reply.code, reply.exception) == ("refused", "ProtocolRefused")
    return reply.subject


def test_clients_train_when_their_update_is_asked_for_and_not_before() -> None:
    bench = Bench()
    bench.hold()
    server = bench.server()
    bench.play(server, Stage.mask)
    assert bench.calls == [0, 0, 0]
    bench.play(server)
    assert bench.calls == [1, 1, 1]
    assert server.result().members == NAMES


def test_an_update_that_was_prepared_serves_all_sessions_of_its_task() -> None:
    bench = Bench()
    bench.hold()
    for name in NAMES:
        bench.clients.secure.prepare(task(bench.job, name).key)
        bench.clients.secure.prepare(task(bench.job, name).key)
    assert bench.calls == [1, 1, 1]
    server = bench.server()
    bench.play(server, Stage.mask)
    bench.stage(server)  # and then it aborts
    bench.play(bench.server(1))
    assert bench.calls == [1, 1, 1]


def test_without_that_a_second_session_trains_again_to_the_same_sum() -> None:
    bench = Bench()
    bench.hold()
    first = bench.server()
    bench.play(first, Stage.mask)
    bench.stage(first)
    second = bench.server(1)
    bench.play(second)
    assert bench.calls == [2, 2, 2]
    seen = [bench.clients.secure.witness("train", 0, attempt) for attempt in (0, 1)]
    for name in NAMES:
        assert np.array_equal(seen[0].packed[name][0], seen[1].packed[name][0])


def test_who_has_signed_takes_part_in_no_second_session() -> None:
    bench = Bench()
    bench.hold()
    server = bench.server()
    bench.play(server, Stage.agree)
    bench.stage(server)
    assert [refused(reply) for reply in bench.stage(bench.server(1))] == ["second sum"] * 3
    assert bench.calls == [1, 1, 1]


def test_a_plain_task_gets_nothing_from_a_job_of_secure_sums() -> None:
    bench = Bench()
    assert refused(bench.ask(task(bench.job, "ann", session=""))) == "session"
    measured = replace(task(bench.job, "ann", session=""), key=Key(bench.job.id, 0, "evaluate", "", 0, "ann"))
    assert refused(bench.ask(measured)) == "session"
    assert bench.calls == [0, 0, 0]


def test_a_job_without_secure_sums_has_no_sessions() -> None:
    bench = Bench(make_job(None))
    assert refused(bench.ask(task(bench.job, "ann"))) == "session"
    asked = FromServer(Key(bench.job.id, 0, "train", "advertise", 0, "ann"), b"")
    assert refused(bench.ask(asked)) == "task"


def test_a_session_needs_its_task() -> None:
    bench = Bench()
    assert [refused(reply) for reply in bench.stage(bench.server())] == ["task"] * 3
    bench.hold()
    for name in NAMES:
        bench.clients.settle(task(bench.job, name).key, Verdict.lost)
    assert [refused(reply) for reply in bench.stage(bench.server())] == ["task"] * 3


def test_masks_are_added_by_as_many_threads_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Noted(SecAggClient):
        def __init__(self, *given: Any, threads: int, **more: Any) -> None:
            made.append(threads)
            super().__init__(*given, threads=threads, **more)

    monkeypatch.setattr("fedkit.secureclient.SecAggClient", Noted)
    bench = Bench(change=lambda who: replace(who, threads=3))
    bench.hold()
    bench.stage(bench.server())
    assert made == [3, 3, 3]


def test_a_client_without_an_identity_is_in_no_session() -> None:
    bench = Bench(change=lambda who: None)
    bench.hold()
    assert [refused(reply) for reply in bench.stage(bench.server())] == ["identity"] * 3


def test_the_first_task_of_a_round_is_the_one_that_counts() -> None:
    """A server that sends another model afterwards, to one client alone, is found out."""
    bench = Bench()
    bench.hold()
    other: Tensors = {"w": np.ones(5, np.float32)}
    assert bench.clients.handle(replace(task(bench.job, "ann"), model=other)) == []
    assert [refused(reply) for reply in bench.stage(bench.server(model=other))] == ["model"] * 3


@pytest.mark.parametrize(
    "change", [{"settings": {"mu": 9.0}}, {"context": {"c": {"w": np.ones(5, np.float32)}}}]
)
def test_all_clients_are_given_the_same(change: dict[str, Any]) -> None:
    """With settings or a context that make others' updates nothing, one would stand alone in the sum."""
    bench = Bench()
    for name in NAMES:
        made = task(bench.job, name)
        assert bench.clients.handle(replace(made, **change) if name == "bob" else made) == []
    replies = {reply.key.client: reply for reply in bench.stage(bench.server())}
    assert refused(replies["bob"]) == "model"
    assert all(isinstance(replies[name], FromClient) for name in ("ann", "cay"))


def test_floors_of_the_clients_own_hold_whatever_the_job_says() -> None:
    strict = Policy(corrupt=0.2, dropout=0.0)
    bench = Bench(change=lambda who: replace(who, floors=Floors(strict)))
    bench.hold()
    assert [refused(reply) for reply in bench.stage(bench.server())] == ["corrupt"] * 3
    honest = Policy(dropout=0.0, mode=Mode.HONEST_SERVER)
    bench = Bench()
    bench.hold()
    assert [refused(reply) for reply in bench.stage(bench.server(policy=honest))] == ["mode"] * 3


def test_stages_of_a_session_that_is_not_under_way_are_refused() -> None:
    bench = Bench()
    bench.hold()
    key = Key(bench.job.id, 0, "train", "share", 0, "ann")
    assert refused(bench.ask(FromServer(key, b""))) == "attempt"
    server = bench.server(1)
    bench.play(server, Stage.share)
    body = server.outbox()["ann"]
    assert refused(bench.ask(FromServer(key, body))) == "attempt"  # of session 0
    assert [refused(reply) for reply in bench.stage(bench.server(0))] == ["attempt"] * 3
    assert [refused(reply) for reply in bench.stage(bench.server(1))] == ["attempt"] * 3


def test_after_a_breach_a_client_is_out_of_the_session() -> None:
    bench = Bench()
    bench.hold()
    server = bench.server()
    bench.play(server, Stage.share)
    key = Key(bench.job.id, 0, "train", "share", 0, "ann")
    assert refused(bench.ask(FromServer(key, server.outbox()["bob"]))) == "graph"
    assert refused(bench.ask(FromServer(key, server.outbox()["ann"]))) == "attempt"


@pytest.mark.parametrize("stage", Stage)
def test_rubbish_ends_no_session(stage: Stage) -> None:
    bench = Bench()
    bench.hold()
    server = bench.server()
    bench.play(server, stage)
    key = Key(bench.job.id, 0, "train", stage, 0, "ann")
    for body in (b"", b"rubbish", server.outbox()["ann"][:-1]):
        assert refused(bench.ask(FromServer(key, body))) == "malformed"
    bench.play(server)
    assert server.result().members == NAMES
    assert bench.calls == [1, 1, 1]


def test_a_header_that_is_not_signed_ends_no_session_and_takes_no_attempt() -> None:
    bench = Bench()
    bench.hold()
    server = bench.server()
    bench.play(server, Stage.mask)
    opening = Opening.from_bytes(bench.server(1).outbox()["ann"])
    forged = Opening(opening.header, bytes(64)).to_bytes()
    key = Key(bench.job.id, 0, "train", "advertise", 1, "ann")
    assert refused(bench.ask(FromServer(key, forged))) == "server"
    bench.play(server)
    assert server.result().members == NAMES


def test_a_client_joins_no_more_sessions_of_a_round_than_the_job_has() -> None:
    bench, replies = Bench(), list[Answer]()
    for attempt in range(4):
        bench.hold()
        replies = bench.stage(bench.server(attempt))
        for name in NAMES:  # to announce the task again does not help
            bench.clients.settle(task(bench.job, name).key, Verdict.unwanted)
        if attempt <= SECRET.retries:
            assert all(isinstance(reply, FromClient) for reply in replies)
    assert [refused(reply) for reply in replies] == ["attempts"] * 3


def test_the_server_chooses_neither_a_seed_nor_how_much_is_done() -> None:
    bench = Bench()
    made = task(bench.job, "ann")
    assert refused(bench.ask(replace(made, work=0.5))) == "work"
    assert refused(bench.ask(replace(made, seed=task(bench.job, "ann", round=1).seed))) == "seed"
    assert refused(bench.ask(replace(made, seed=task(bench.job, "bob").seed))) == "seed"


def test_a_client_says_itself_how_much_it_does() -> None:
    bench = Bench(replace(make_job(), strategy=FedProx()))
    for name in NAMES:
        assert bench.clients.handle(task(bench.job, name), work=0.5 if name == "bob" else 1.0) == []
    bench.play(bench.server())
    assert [[done.work for done in trainer.done] for trainer in bench.work.trainers.values()] == [
        [1.0],
        [0.5],
        [1.0],
    ]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError("label"), ("exception", "KeyError", "")),
        (ClientFailed("no_data", "x", "is empty"), ("no_data", "ClientFailed", "x")),
    ],
)
def test_what_goes_wrong_in_training_answers_the_request(error: Exception, told: tuple[str, ...]) -> None:
    bench = Bench()
    bench.hold()
    bench.work.trainers["bob"].error = error
    server = bench.server()
    bench.play(server, Stage.mask)
    replies = {reply.key.client: reply for reply in bench.stage(server)}
    failure = replies["bob"]
    assert isinstance(failure, Failure)
    assert (failure.code, failure.exception, failure.subject) == told
    assert failure.key.stage == "mask"


def test_only_a_simulation_keeps_what_was_packed() -> None:
    for witnessed in (True, False):
        bench = Bench(change=lambda who, kept=witnessed: replace(who, witnessed=kept))  # type: ignore[misc]
        bench.hold()
        bench.play(bench.server())
        seen = bench.clients.secure.witness("train", 0, 0)
        assert (set(seen.packed) == set(NAMES), seen.client_seconds > 0) == (witnessed, witnessed)
        again = bench.clients.secure.witness("train", 0, 0)
        assert (again.packed, again.client_seconds) == ({}, 0.0)


def test_a_task_of_no_session_cannot_be_held() -> None:
    with pytest.raises(ProtocolRefused, match="agreed on none"):
        SecureClients(make_job(None), None, lambda one: pytest.fail("trained")).hold(
            task(make_job(None), "ann")
        )
