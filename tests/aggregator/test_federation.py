"""The deployed Federation keeps the laws of federations, over real sockets, and forgets nothing."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fedkit import wire
from fedkit.aggregate import Grid
from fedkit.aggregator.app import App
from fedkit.aggregator.blobs import Blobs
from fedkit.aggregator.federation import EdgeFederation
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.leases import Leases
from fedkit.aggregator.listener import Listener
from fedkit.aggregator.registry import Roster
from fedkit.aggregator.seats import Seats
from fedkit.aggregator.status import standing
from fedkit.conformance import check_federation
from fedkit.downlink import Release
from fedkit.errors import ConfigError
from fedkit.federation import Verdict
from fedkit.job import Job
from fedkit.messages import EncodedUpdate, Key, Task
from fedkit.plugins import codec, strategy
from fedkit.secagg.identity import SigningKey, Trust
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.settings import SecAgg
from fedkit.signing import headers
from fedkit.tensors import Layout, flat

KEYS = {name: SigningKey(hashlib.sha256(name.encode()).digest()) for name in ("alice", "bob", "ward 7")}
SERVER = SigningKey(hashlib.sha256(b"server").digest()).public
ROSTER = Roster(Trust.of_roster({name: key.public for name, key in KEYS.items()}, SERVER))


def job() -> Job:
    layout, plain = Layout(("w",), ((5,),), ("float32",)), codec("none")
    return Job(strategy("fedavg"), plain, plain, layout, Layout((), (), ()), Grid(1024.0, 256.0, 4096), {}, 7)


@dataclass
class Devices:
    """Scripted clients: each answers every task with ones, until it is stopped."""

    url: str

    def __post_init__(self) -> None:
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.live, args=(name,)) for name in KEYS]

    def __enter__(self) -> Devices:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def live(self, name: str) -> None:
        with httpx.Client(base_url=self.url, timeout=60.0) as client:
            owed = told({"settled": [], "tasks": []})
            while not self.stopped.is_set():
                news = self.ask(client, name, "POST", "/v1/tasks?wait=1", owed)
                if news.status_code != 200:
                    time.sleep(0.05)
                    continue
                for offer in news.json()["tasks"]:
                    self.work(client, name, offer)
                settled = [row[:6] for row in news.json()["settled"]]
                tasks = [offer["id"] for offer in news.json()["tasks"]]
                owed = told({"settled": settled, "tasks": tasks})

    def work(self, client: httpx.Client, name: str, offer: Mapping[str, Any]) -> None:
        got = self.ask(client, name, "GET", f"/v1/blobs/{offer['frame']}")
        if got.status_code != 200:
            return  # settled meanwhile
        task = wire.decode(got.content)
        frame = wire.encode(EncodedUpdate(task.key, "none", np.ones(5, "<f4").tobytes(), 1.0, {}, 1.0))
        about = {
            "bytes": len(frame),
            "key": wire.key_row(task.key),
            "sha256": hashlib.sha256(frame).hexdigest(),
        }
        begun = self.ask(client, name, "POST", "/v1/uploads", told(about)).json()
        if begun.get("offset") == 0:
            self.ask(client, name, "PATCH", f"/v1/uploads/{begun['id']}", frame, {"Upload-Offset": "0"})

    def ask(
        self,
        client: httpx.Client,
        name: str,
        method: str,
        target: str,
        body: bytes = b"",
        more: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        signed = headers(KEYS[name], name, SERVER, method, target, body, time.time())
        return client.request(method, target, content=body or None, headers={**signed, **(more or {})})


def told(content: object) -> bytes:
    return json.dumps(content).encode()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def live(stack: ExitStack, directory: Path) -> EdgeFederation:
    """A federation with everything below it, and its devices."""
    journal = Journal(directory)
    stack.callback(journal.close)
    server = stack.enter_context(Listener(App(journal, ROSTER).asgi, "127.0.0.1", 0))
    stack.enter_context(Devices(server.url))
    return EdgeFederation(journal, ROSTER, wait_for=3, patience=300.0)


def test_it_keeps_the_laws(stack: ExitStack, tmp_path: Path) -> None:
    made: list[Path] = []

    def make() -> EdgeFederation:
        stack.pop_all().close()  # one at a time
        made.append(tmp_path / str(len(made)))
        return live(stack, made[-1])

    tried = check_federation(make, job(), patience=300.0, repeatable=False)
    assert len(made) >= 10
    assert "an early stop loses nothing" in tried


def test_a_restart_yields_what_was_accepted_and_not_settled(site: Any) -> None:
    tasks = [site.task(name) for name in ("alice", "bob", "ward 7")]
    site.federation.send(tasks)
    for task in reversed(tasks):
        site.deliver(task)
    order = [task.key for task in reversed(tasks)]
    now = site.federation.now()
    assert [arrival.key for arrival in site.federation.receive(now)] == order
    assert list(site.federation.receive(now)) == []
    site.federation.settle({order[1]: Verdict.counted})
    site.again()
    site.federation.send(tasks)
    again = [arrival.key for arrival in site.federation.receive(site.federation.now())]
    assert again == [order[0], order[2]], "in the order of acceptance, without what was settled"


def test_after_a_restart_an_old_reply_is_not_dated_after_the_deadline(site: Any) -> None:
    task = site.task("alice")
    site.federation.send([task])
    site.deliver(task)
    deadline = site.federation.now()
    time.sleep(0.05)
    (arrival,) = site.again().federation.receive(deadline)
    assert arrival.at <= deadline


def test_a_reply_after_the_deadline_stays_for_later(site: Any) -> None:
    deadline = site.federation.now()
    time.sleep(0.02)
    task = site.task("alice")
    site.federation.send([task])
    site.deliver(task)
    assert list(site.federation.receive(deadline)) == []
    assert task.key in site.federation.outstanding()
    assert len(list(site.federation.receive(site.federation.now()))) == 1


def test_receiving_ends_as_soon_as_all_is_resolved(site: Any) -> None:
    tasks = [site.task(name) for name in ("alice", "bob")]
    site.federation.send(tasks)
    site.deliver(tasks[0])
    timer = threading.Timer(0.1, site.deliver, args=[tasks[1]])
    timer.start()
    deadline = site.federation.now() + 600.0
    assert len(list(site.federation.receive(deadline))) == 2
    assert site.federation.now() < deadline
    timer.join()


def test_a_result_that_comes_while_others_are_read_is_not_left_behind(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [site.task(name) for name in ("alice", "bob")]
    site.federation.send(tasks)
    site.deliver(tasks[0])
    uploads, looks = site.federation._uploads, [0]
    replies = uploads.replies

    def look(turn: int) -> Any:
        found = replies(turn)
        looks[0] += 1
        if looks[0] == 1:
            site.deliver(tasks[1])
        return found

    monkeypatch.setattr(uploads, "replies", look)
    got = [arrival.key.client for arrival in site.federation.receive(site.federation.now() + 600.0)]
    assert got == ["alice", "bob"]


def test_clients_are_those_heard_of_lately_or_at_work(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bob", "alice", "mallory"):
        site.journal.admit(name, "00", 0, 0.0)
    assert site.federation.clients() == ["alice", "bob"], "sorted; the roster says who there is"
    later = EdgeFederation(site.journal, ROSTER, reach=0.0, patience=0.0)
    assert later.clients() == []
    site.federation.send([site.task("ward 7")])
    assert later.clients() == []
    site.leases.news("ward 7")[1]
    assert later.clients() == ["ward 7"]
    site.again()
    assert site.federation.clients() == ["alice", "bob", "ward 7"], "downtime is no absence"


def secure(directory: Path, **about: float) -> tuple[Journal, EdgeFederation]:
    """A federation of secure rounds, as each start of an aggregator makes it."""
    settings = SecAgg(Policy(smallest=3, mode=Mode.HONEST_SERVER))
    journal = Journal(directory)
    made = EdgeFederation(journal, ROSTER, **about)  # type: ignore[arg-type]
    made.open(replace(job(), secagg=settings))
    return journal, made


def test_for_secure_rounds_a_client_must_be_heard_of_by_this_process(tmp_path: Path) -> None:
    """Who was there two minutes before a stop may be gone; a session would wait for it, and lose it."""
    journal, federation = secure(tmp_path, patience=0.0)
    for name in ("alice", "bob"):
        journal.admit(name, "00", 0, 0.0)
    assert federation.clients() == ["alice", "bob"]
    journal.close()
    journal, federation = secure(tmp_path, patience=0.0)
    assert federation.clients() == []
    journal.admit("bob", "01", 0, 0.0)
    assert federation.clients() == ["bob"]
    journal.close()


def test_after_a_restart_a_secure_round_waits_for_its_clients_but_not_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, federation = secure(tmp_path)
    key = Key(job().id, 0, "train", "", 0, "alice")
    end = federation.now() + 1000.0
    federation.publish(Release(1, flat({"w": np.zeros(5, np.float32)}), None, 0))
    federation.send([Task(key, 1, {}, {}, {}, 5, 1.0, end, "ab", end)])
    Leases(journal, Blobs(tmp_path / "blobs")).news("alice")
    journal.close()
    journal, federation = secure(tmp_path, wait_for=2, patience=9999.0)
    began, ahead, now = journal.now(), [0.0], journal.now

    def passes(ticks: int, seconds: float) -> None:
        ahead[0] += 10.0

    monkeypatch.setattr(journal, "now", lambda: now() + ahead[0])
    monkeypatch.setattr(journal, "wait", passes)
    assert federation.clients() == [], "it has its task, and is not back"
    assert 240.0 <= journal.now() - began <= 270.0
    journal.close()


def test_a_client_that_was_lost_is_not_asked_again_before_it_is_back(site: Any) -> None:
    for name in ("bob", "alice"):
        site.journal.admit(name, "00", 0, 0.0)
    tasks = [site.task(name) for name in ("alice", "bob")]
    site.federation.send(tasks)
    site.federation.settle({tasks[0].key: Verdict.lost, tasks[1].key: Verdict.counted})
    assert site.federation.clients() == ["bob"]
    site.journal.admit("alice", "01", 0, 0.0)
    assert site.federation.clients() == ["alice", "bob"]


def test_it_waits_for_enough_clients_but_not_for_ever(site: Any) -> None:
    told = list[str]()
    waits = EdgeFederation(site.journal, ROSTER, wait_for=2, patience=600.0, waits=told.append)
    timer = threading.Timer(0.1, site.journal.admit, args=["bob", "01", 0, 0.0])
    site.journal.admit("alice", "00", 0, 0.0)
    timer.start()
    assert waits.clients() == ["alice", "bob"]
    assert told == ["clients: 1 of 2 can be reached", ""]
    timer.join()
    began = time.monotonic()
    assert EdgeFederation(site.journal, ROSTER, wait_for=3, patience=0.2).clients() == ["alice", "bob"]
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("revoked", [False, True], ids=["expired", "revoked"])
def test_a_device_whose_certificate_is_not_good_is_not_waited_for(
    site: Any, monkeypatch: pytest.MonkeyPatch, revoked: bool
) -> None:
    good, seats = ["alice", "bob", "ward 7"], [Seats(3, ("alice", "bob", "ward 7"))]
    monkeypatch.setattr(ROSTER, "clients", lambda: list(good))
    monkeypatch.setattr(ROSTER, "seats", lambda: seats[-1])
    for name in ("alice", "bob"):
        site.journal.admit(name, "00", 0, 0.0)
    waits: list[int] = []

    def falls(ticks: int, seconds: float) -> None:
        waits.append(ticks)
        good.remove("ward 7")
        if revoked:
            seats.append(Seats(3, ("alice", "bob"), (), ("ward 7",)))

    monkeypatch.setattr(site.journal, "wait", falls)
    assert EdgeFederation(site.journal, ROSTER, wait_for=3).clients() == ["alice", "bob"]
    assert len(waits) == 1, "until its certificate was not good any more"


def test_where_all_have_expired_no_round_of_none_begins(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    good = list[str]()
    monkeypatch.setattr(ROSTER, "clients", lambda: list(good))
    monkeypatch.setattr(ROSTER, "seats", lambda: Seats(1, ("alice",)))
    site.journal.admit("alice", "00", 0, 0.0)
    monkeypatch.setattr(site.journal, "wait", lambda ticks, seconds: good.append("alice"))
    assert EdgeFederation(site.journal, ROSTER, wait_for=1).clients() == ["alice"], "who has joined again"
    good.clear()
    assert EdgeFederation(site.journal, ROSTER, wait_for=0).clients() == [], "nobody is to be waited for"


def test_a_round_that_must_fail_is_not_begun_at_once(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of three has expired: a quorum of two does without it, one of three waits for it."""
    good = ["alice", "bob"]
    monkeypatch.setattr(ROSTER, "clients", lambda: list(good))
    monkeypatch.setattr(ROSTER, "seats", lambda: Seats(3, ("alice", "bob", "ward 7")))
    for name in ("alice", "bob", "ward 7"):
        site.journal.admit(name, "00", 0, 0.0)
    monkeypatch.setattr(site.journal, "wait", lambda ticks, seconds: good.append("ward 7"))
    assert EdgeFederation(site.journal, ROSTER, wait_for=3, quorum=2).clients() == ["alice", "bob"]
    assert EdgeFederation(site.journal, ROSTER, wait_for=2, quorum=3).clients() == ["alice", "bob"]
    assert EdgeFederation(site.journal, ROSTER, wait_for=3, quorum=3).clients() == ["alice", "bob", "ward 7"]


def test_devices_that_are_to_come_are_waited_for(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ROSTER, "clients", lambda: ["alice", "bob"])
    monkeypatch.setattr(ROSTER, "seats", lambda: Seats(5, ("alice", "bob"), (), ("ward 7",)))
    for name in ("alice", "bob"):
        site.journal.admit(name, "00", 0, 0.0)
    waits: list[int] = []

    def comes(ticks: int, seconds: float) -> None:
        waits.append(ticks)
        monkeypatch.setattr(ROSTER, "seats", lambda: Seats(5, ("alice", "bob"), (), ("a", "b", "ward 7")))

    monkeypatch.setattr(site.journal, "wait", comes)
    assert EdgeFederation(site.journal, ROSTER, wait_for=3).clients() == ["alice", "bob"]
    assert len(waits) == 1, "of three free places one has not been anybody's"


def test_another_job_is_not_mixed_in(site: Any) -> None:
    with pytest.raises(ConfigError, match="holds the journal of job"):
        site.federation.open(replace(site.job, model_seed=8))


def test_a_version_that_a_repeated_round_makes_anew_is_replaced(site: Any) -> None:
    site.publish(1)
    site.publish(2, 0.75)
    old = site.federation._releases.find(2)
    site.publish(2, 0.75)
    assert site.federation._releases.find(2) == old
    site.publish(2, 0.875)
    new = site.federation._releases.find(2)
    assert new.model != old.model
    site.publish(1)
    assert site.federation._releases.find(2) is None


def test_blobs_go_when_nothing_needs_them(site: Any) -> None:
    def count() -> int:
        return len(list((site.directory / "blobs").glob("??/*")))

    site.publish(1)
    task: Task = site.task("alice")
    site.federation.send([task])
    site.leases.news("alice")[1]
    assert count() == 2
    site.publish(2, 0.75, b"d" * 20, 1)
    assert count() == 4, "the old model is still asked for"
    site.federation.settle({task.key: Verdict.counted})
    assert count() == 2, "the newest model, and the difference that leads there"


def test_models_are_not_held_in_memory(site: Any) -> None:
    value = flat({"w": np.full((3, 2), 1.5, np.float32), "b": np.zeros(2, np.float32)})
    site.publish(1, 1.5)
    release = site.federation._releases.find(1)
    path = site.directory / "blobs" / release.model[:2] / release.model[2:]
    assert path.read_bytes() == value.vector.astype("<f4").tobytes()


def test_after_failed_rounds_it_waits_longer_each_time_and_says_so(
    site: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits: list[float] = []
    clock = [site.federation.now()]
    monkeypatch.setattr(site.journal, "now", lambda: clock[0])

    def passes(ticks: int, seconds: float) -> None:
        waits.append(standing(site.directory, now=clock[0])["pause"])
        clock[0] += 301.0

    monkeypatch.setattr(site.journal, "wait", passes)
    for failures in (1, 2, 3, 9, 5000):
        site.federation.pause(failures, "ann says no")
    assert waits == pytest.approx([1.0, 2.0, 4.0, 256.0, 300.0])
    assert standing(site.directory, now=clock[0])["pause"] == 0.0
    assert "round failed, 3 in a row: ann says no; the next in 4 s" in caplog.text


def test_a_pause_is_over_when_a_device_is_revoked(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    there = [["alice", "bob"], ["alice", "bob"], ["alice"]]
    monkeypatch.setattr(site.federation._registry, "clients", lambda: there.pop(0))
    began = site.federation.now()
    site.federation.pause(99, "bob says no")
    assert site.federation.now() - began < 200.0
    assert not there


def test_a_restart_begins_without_a_pause(site: Any) -> None:
    site.journal.put(pause=site.journal.now() + 100.0)
    site.federation.open(site.job)
    assert standing(site.directory, now=site.journal.now())["pause"] == 0.0
