"""A process that dies before or after any of its writes: what is done again leads to the same journal."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from fedkit import runfolder, wire
from fedkit.aggregator import blobs, bodies, uploads
from fedkit.aggregator.journal import Journal
from fedkit.federation import Verdict
from fedkit.messages import EncodedUpdate


class Crash(BaseException):
    """The process is gone."""


class Mortal:
    """Dies at the n-th step; each write is a step before it and one after it."""

    def __init__(self, patch: pytest.MonkeyPatch, dies: int) -> None:
        self.left = dies
        real_write, real_transaction = runfolder.replace_file, Journal.transaction

        def write(path: Path, data: bytes) -> None:
            self.step()
            real_write(path, data)
            self.step()

        @contextmanager
        def transaction(journal: Journal, durable: bool = False) -> Iterator[Any]:
            with real_transaction(journal, durable) as db:
                yield db
                self.step()
            self.step()

        def sync(path: Path) -> None:
            self.step()
            runfolder.sync(path)
            self.step()

        patch.setattr(blobs, "place_file", write)
        patch.setattr(uploads, "sync", sync)
        patch.setattr(Journal, "transaction", transaction)

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Crash


Upload = Callable[[Any, list[Any]], None]


def taken(site: Any, task: Any) -> bytes:
    """The reply of a client that has taken its tasks."""
    site.leases.news(task.key.client)
    return wire.encode(EncodedUpdate(task.key, "none", bytes(32), 2.0, {}, 1.0))


def begun(site: Any, task: Any) -> tuple[bytes, str, int]:
    """A reply, the name of its upload, and how much of it is there."""
    frame, client = taken(site, task), task.key.client
    return frame, *site.uploads.begin(client, task.key, len(frame), hashlib.sha256(frame).hexdigest())


def in_pieces(site: Any, tasks: list[Any]) -> None:
    for task in tasks:
        frame, name, offset = begun(site, task)
        client = task.key.client
        while offset < len(frame):
            offset, _ = site.uploads.append(client, name, offset, frame[offset : offset + 50])


def at_once(site: Any, tasks: list[Any]) -> None:
    bodies.make_incoming(site.directory)
    for task in tasks:
        client, name, frame = task.key.client, wire.name_of(task.key), taken(site, task)
        with bodies.place("PUT", site.directory) as body:
            body.write(frame)
            body.flush()
            site.uploads.put(client, name, body, hashlib.sha256(frame).hexdigest())


def begun_then_at_once(site: Any, tasks: list[Any]) -> None:
    """As a device does that was started again, and another time."""
    for task in tasks:
        frame, name, offset = begun(site, task)
        client = task.key.client
        if offset < len(frame):
            site.uploads.append(client, name, offset, frame[offset : offset + 50])
        at_once(site, [task])


@pytest.fixture(params=[in_pieces, at_once, begun_then_at_once])
def upload(request: pytest.FixtureRequest) -> Upload:
    """How replies come."""
    found: Upload = request.param
    return found


def round_of(site: Any, upload: Upload) -> tuple[list[Any], Callable[[], None]]:
    """All that happens in a round of two clients, each step as often as one likes."""
    tasks = [site.task(name, 0, 2) for name in ("alice", "bob")]
    verdicts = {tasks[0].key: Verdict.counted, tasks[1].key: Verdict.late}

    def go() -> None:
        site.publish(2, 0.75, b"d" * 20, 1)
        site.federation.send(tasks)
        upload(site, tasks)
        arrivals = list(site.federation.receive(site.federation.now()))
        assert [(a.key.client, a.reply.weight) for a in arrivals] == [("alice", 2.0), ("bob", 2.0)]
        site.federation.settle(verdicts)

    return tasks, go


def contents(site: Any) -> list[object]:
    """What the journal and its folders hold, but for times."""
    with site.journal.transaction() as db:
        tables = [
            sorted(db.execute(f"SELECT {columns} FROM {table}").fetchall())
            for table, columns in (
                ("releases", "*"),
                ("tasks", "id, key, client, version, frame, bytes, expires, leased IS NULL, verdict"),
                ("uploads", "*"),
                ("replies", "task"),
            )
        ]
    files = sorted(str(path.relative_to(site.directory)) for path in site.directory.glob("*/**/*"))
    return [tables, files]


def test_a_crash_at_any_write_leaves_a_round_that_can_be_done_again(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upload: Upload
) -> None:
    _, go = round_of(site, upload)
    go()
    wanted = contents(site)
    crashes, over = 0, False
    while not over:
        dies = crashes + 1
        other = type(site)(tmp_path / f"dies-{dies}")
        _, go = round_of(other, upload)
        with monkeypatch.context() as patch:
            mortal = Mortal(patch, dies)
            try:
                go()
                over = mortal.left > 0
            except Crash:
                crashes += 1
        other.again()
        other.publish(2, 0.75, b"d" * 20, 1)
        _, go = round_of(other, upload)
        if other.federation.outstanding() or not other.federation.untold():
            go()
        other.federation.settle({})
        assert contents(other) == wanted, f"after a crash at step {dies}"
        other.journal.close()
    assert crashes > 30


def test_an_accepted_result_survives_a_crash_at_any_write_after_it(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upload: Upload
) -> None:
    """What a device was told is safe is received by whoever comes next."""
    dies, over = 0, False
    while not over:
        dies += 1
        other = type(site)(tmp_path / f"dies-{dies}")
        tasks, _ = round_of(other, upload)
        other.publish(2, 0.75)
        other.federation.send(tasks)
        told: list[str] = []
        with monkeypatch.context() as patch:
            mortal = Mortal(patch, dies)
            with suppress(Crash):
                for task in tasks:
                    upload(other, [task])
                    told.append(task.key.client)
                assert mortal.left > 0
        over = mortal.left > 0
        other.again()
        got = [arrival.key.client for arrival in other.federation.receive(other.federation.now())]
        assert got[: len(told)] == told, f"after a crash at step {dies}"
        other.journal.close()
    assert dies > 10
