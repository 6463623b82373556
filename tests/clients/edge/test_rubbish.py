"""An aggregator that lies, or is broken: whatever it says, a device does not ask it without a pause."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from fedkit import wire
from fedkit.messages import Key
from fedkit.secagg.identity import SigningKey
from fedkit.secagg.messages import FromServer, Stage
from fedkit_clients.edge import EdgeClient, Transport, runtime
from fedkit_clients.edge.answers import Fruitless
from fedkit_clients.edge.root import Root
from tests.clients.edge.overhttpx import OverHttpx

NAME, KEY = "ward 7", SigningKey(bytes(range(32)))
SERVER = SigningKey(bytes(range(1, 33))).public
PAUSES, MOST = 9, 6
"""Pauses that are looked at, and most requests between two of them."""
numbers = itertools.count()


class Enough(Exception):
    """So many pauses were seen, or requests were made."""


@pytest.fixture(autouse=True)
def _quick(fast_disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, no step is long enough."""
    monkeypatch.setattr(runtime, "HASTE", 1e9)


def blob(data: bytes, inline: bool = True) -> dict[str, Any]:
    told = {"bytes": len(data), "frame": hashlib.sha256(data).hexdigest()}
    return {**told, "data": base64.b64encode(data).decode() if inline else None}


def task(server: Any, frame: bytes, inline: bool = True) -> dict[str, Any]:
    server.blobs[hashlib.sha256(frame).hexdigest()] = frame
    model = {"sha256": "ab" * 32, "bytes": 4}
    return {**blob(frame, inline), "id": 7, "version": 3, "model": model, "difference": None}


def message(server: Any, stage: Stage) -> dict[str, Any]:
    """A message that nobody has announced, another one each time."""
    key = Key(server.job.id, next(numbers), "train", stage.value, 0, NAME)
    return blob(wire.encode(FromServer(key, b"asked")))


def verdict(server: Any, key: Key) -> list[Any]:
    return [key.job, key.round, key.kind, key.stage, key.attempt, key.client, "counted"]


def unknown(server: Any) -> Key:
    return Key(server.job.id, next(numbers), "train", "", 0, NAME)


Lie = Callable[[Any], dict[str, Any]]
LIES: dict[str, Lie] = {
    "nothing": lambda server: {},
    "the same verdicts": lambda server: {"settled": [verdict(server, next(iter(server.results)))]},
    "verdicts on nothing": lambda server: {"settled": [verdict(server, unknown(server))]},
    "a task that was done": lambda server: {"tasks": [server._offer(1, server.tasks[1])]},
    "no task": lambda server: {"tasks": [task(server, b"no task %d" % next(numbers))]},
    "no task, to fetch": lambda server: {"tasks": [task(server, b"none %d" % next(numbers), inline=False)]},
    "messages of no task": lambda server: {"messages": [message(server, Stage.advertise)]},
    "no messages": lambda server: {"messages": [blob(b"no message %d" % next(numbers))]},
    "messages and their end": lambda server: {
        "messages": [message(server, Stage.mask)],
        "settled": [verdict(server, unknown(server))],
    },
}


class Recorder:
    """Sleeps not at all, and remembers for how long it should have."""

    def __init__(self, server: Any) -> None:
        self.waits, self.asked, self._server = list[float](), list[int](), server

    def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.asked.append(len(self._server.log))
        if len(self.waits) == PAUSES:
            raise Enough


def make_client(server: Any, folder: Path, sleep: Callable[[float], None]) -> EdgeClient:
    way = OverHttpx(server.handle_request)
    transport = Transport("http://aggregator:1", NAME, KEY, SERVER, way=way, clock=lambda: server.time)
    return EdgeClient(transport, NAME, server.workload, Root(folder), sleep=sleep)


def lie(server: Any, of: Lie) -> None:
    """From now on the aggregator answers polls so, at once."""

    def news() -> httpx.Response:
        told: dict[str, Any] = {
            "ca": "",
            "last": None,
            "messages": [],
            "now": 0.0,
            "settled": [],
            "tasks": [],
        }
        return httpx.Response(200, json={**told, **of(server)})

    def fault(method: str, target: str, number: int) -> None:
        if number > PAUSES * MOST + 100:
            raise Enough

    server._news, server.fault = news, fault
    server._put = lambda *_: httpx.Response(201)


@pytest.mark.parametrize("name", LIES)
def test_who_answers_at_once_without_news_is_asked_ever_more_seldom(
    tmp_path: Path, aggregator: Any, name: str
) -> None:
    pauses = Recorder(aggregator)
    client = make_client(aggregator, tmp_path, pauses)
    while not aggregator.results:
        client.step()
    client.step()
    lie(aggregator, LIES[name])
    with pytest.raises(Enough):
        client.run()
    client.close()
    assert len(pauses.waits) == PAUSES, f"{len(aggregator.log)} requests without a pause"
    assert min(pauses.waits) >= Fruitless.least
    assert max(pauses.waits) > 16 * Fruitless.least
    assert max(b - a for a, b in itertools.pairwise(pauses.asked)) <= MOST


@pytest.mark.parametrize(("share", "waits"), [(0.4, 3), (0.9, 0)])
def test_so_is_who_answers_a_little_later(
    tmp_path: Path, aggregator: Any, monkeypatch: pytest.MonkeyPatch, share: float, waits: int
) -> None:
    now = [0.0]
    monkeypatch.setattr(runtime, "HASTE", 0.5)
    monkeypatch.setattr(runtime, "time", SimpleNamespace(monotonic=lambda: now[0]))
    client = make_client(aggregator, tmp_path, Recorder(aggregator))
    lie(aggregator, LIES["nothing"])
    told, patience = aggregator._news, list[float]()

    def news() -> httpx.Response:
        patience.append(client._patience)
        now[0] += share * client._patience
        return cast("httpx.Response", told())

    aggregator._news = news
    raised = 0
    for _ in range(3):
        with suppress(Fruitless):
            client.step()
            continue
        raised += 1
    client.close()
    assert raised == waits
    assert patience == ([30, 30, 30] if waits else [30, 60, 120])


def test_who_names_another_run_each_time_is_asked_ever_more_seldom(tmp_path: Path, aggregator: Any) -> None:
    pauses = Recorder(aggregator)
    client = make_client(aggregator, tmp_path, pauses)
    client.step()

    def fault(method: str, target: str, number: int) -> None:
        aggregator.run = f"{number:016x}"
        if number > 300:
            raise Enough

    aggregator.fault = fault
    with pytest.raises(Enough):
        client.run()
    client.close()
    assert min(pauses.waits) >= Fruitless.least
    assert max(pauses.waits) > 16 * Fruitless.least


def test_whose_tasks_come_at_once_is_asked_without_a_pause(tmp_path: Path, aggregator: Any) -> None:
    client = make_client(aggregator, tmp_path, Recorder(aggregator))
    for _ in range(5):
        client.step()
    client.close()
    assert len(aggregator.results) == 5, "a step for each round"
