"""A device that cannot take part in the run that is served: it says so, shortly, to each task."""

from __future__ import annotations

import base64
import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest

from fedkit import wire
from fedkit.messages import Failure, Key
from fedkit.secagg.identity import SigningKey
from fedkit.secagg.messages import FromServer, Stage
from fedkit_clients.edge import EdgeClient, Transport
from fedkit_clients.edge.answers import Unfit, Unreachable
from fedkit_clients.edge.device import Device
from fedkit_clients.edge.policy import DevicePolicy
from fedkit_clients.edge.root import Root
from tests.clients.edge.overhttpx import OverHttpx

NAME, KEY = "ward 7", SigningKey(bytes(range(32)))
SERVER = SigningKey(bytes(range(1, 33))).public
pytestmark = pytest.mark.usefixtures("fast_disk")


class _Other:
    """A workload whose model is another."""

    def clients(self) -> list[str]:
        return [NAME]

    def init(self, seed: int) -> Any:
        return {"weight": np.zeros((64, 10), np.float32)}


@pytest.fixture
def told(aggregator: Any) -> dict[str, bytes]:
    """What is uploaded from now on, by its place; the aggregator does nothing with it."""
    made: dict[str, bytes] = {}

    def put(place: str, frame: bytes) -> httpx.Response:
        made[place] = frame
        return httpx.Response(201)

    aggregator._put = put
    return made


def left_behind(server: Any, folder: Path, tells_why: bool = True) -> EdgeClient:
    """A client that has joined one run, and now finds another that is not for it."""
    way = OverHttpx(server.handle_request)
    transport = Transport("http://aggregator:1", NAME, KEY, SERVER, way=way, clock=lambda: server.time)
    device = Device(DevicePolicy(tells_why=tells_why))
    client = EdgeClient(
        transport, NAME, server.workload, Root(folder), device=device, sleep=lambda seconds: None
    )
    client._join()
    server.run, client._workload = "f" * 16, cast("Any", _Other())
    with pytest.raises(Unfit, match="other tensors"):
        client.step()
    return client


def steps(client: EdgeClient, count: int = 3) -> None:
    for _ in range(count):
        with suppress(Unreachable):  # the script does not wait
            client.step()
    client.close()


@pytest.mark.parametrize(("why", "subject"), [(True, "model"), (False, "")])
@pytest.mark.parametrize("inline", [True, False])
def test_each_task_is_declined_once_and_the_reason_is_a_word_or_none(
    tmp_path: Path, aggregator: Any, told: dict[str, bytes], inline: bool, why: bool, subject: str
) -> None:
    aggregator.inline = inline
    client = left_behind(aggregator, tmp_path, tells_why=why)
    steps(client)
    key = aggregator.tasks[1].key
    assert [wire.decode(frame) for frame in told.values()] == [Failure(key, "refused", "", subject)]
    puts = [target for method, target, _ in aggregator.log if method == "PUT"]
    assert puts == [f"/v1/uploads/{wire.name_of(key)}?run={'f' * 16}"], "in the run that is served, and once"
    assert not (tmp_path / "declined").exists()


def test_messages_of_sessions_are_declined_too(
    tmp_path: Path, aggregator: Any, told: dict[str, bytes]
) -> None:
    client = left_behind(aggregator, tmp_path)
    key = Key(aggregator.job.id, 0, "train", Stage.advertise.value, 0, NAME)
    frame = wire.encode(FromServer(key, b"asked"))
    data = base64.b64encode(frame).decode()
    message = {"bytes": len(frame), "frame": hashlib.sha256(frame).hexdigest(), "data": data}
    news = {"ca": "", "last": None, "messages": [message], "now": 0.0, "settled": [], "tasks": []}
    aggregator._news = lambda: httpx.Response(200, json=news)
    steps(client)
    assert [wire.decode(frame) for frame in told.values()] == [Failure(key, "refused", "", "model")]


@pytest.mark.parametrize("junk", [b"none", wire.encode(Failure(Key("j", 0, "train", "", 0, NAME), "x"))])
def test_what_is_no_task_is_passed_over(
    tmp_path: Path, aggregator: Any, told: dict[str, bytes], junk: bytes
) -> None:
    client = left_behind(aggregator, tmp_path)
    offer = aggregator._offer(1, aggregator.tasks[1])
    sha = hashlib.sha256(junk).hexdigest()
    offer |= {"frame": sha, "bytes": len(junk), "data": base64.b64encode(junk).decode()}
    news = {"ca": "", "last": None, "messages": [], "now": 0.0, "settled": [], "tasks": [offer]}
    aggregator._news = lambda: httpx.Response(200, json=news)
    steps(client)
    assert told == {}


def test_the_run_after_it_is_joined(tmp_path: Path, aggregator: Any, told: dict[str, bytes]) -> None:
    fits = aggregator.workload
    client = left_behind(aggregator, tmp_path)
    client.step()
    assert told
    aggregator.run, client._workload = "e" * 16, fits
    aggregator._put = type(aggregator)._put.__get__(aggregator)
    steps(client, 8)
    assert len(aggregator.results) == 5
    assert [path.name for path in tmp_path.glob("*-*")] == [aggregator.folder]


def test_the_run_before_it_is_gone_on_with(tmp_path: Path, aggregator: Any) -> None:
    known, fits = aggregator.run, aggregator.workload
    client = left_behind(aggregator, tmp_path)
    aggregator.run, client._workload = known, fits
    aggregator._put = type(aggregator)._put.__get__(aggregator)
    steps(client, 8)
    assert len(aggregator.results) == 5
