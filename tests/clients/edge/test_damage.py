"""Files of a device that are damaged: it sets them aside, says so, and goes on by itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fedkit import wire
from fedkit.federation import Verdict
from fedkit.messages import Failure
from fedkit.secagg.identity import SigningKey
from fedkit_clients.edge import EdgeClient, Transport
from fedkit_clients.edge.answers import Unreachable
from fedkit_clients.edge.root import Root
from tests.clients.edge.overhttpx import OverHttpx

KEY, SERVER = SigningKey(bytes(range(32))), SigningKey(bytes(range(1, 33))).public
NAME, ROUNDS = "ward 7", 5
pytestmark = pytest.mark.usefixtures("fast_disk")


def make_client(server: Any, folder: Path) -> EdgeClient:
    way = OverHttpx(server.handle_request)
    transport = Transport("http://aggregator:1", NAME, KEY, SERVER, way=way, clock=lambda: server.time)
    return EdgeClient(transport, NAME, server.workload, Root(folder), sleep=lambda seconds: None)


def go(server: Any, folder: Path, results: int = ROUNDS) -> None:
    """Step until there are so many results, and the verdicts on all are known where these are all."""
    client = make_client(server, folder)
    try:
        for _ in range(50):
            if len(server.results) == results and (results < ROUNDS or server.done):
                return
            with suppress(Unreachable):
                client.step()
        raise AssertionError(f"not done: {server.log[-20:]}")
    finally:
        client.close()


def spoil(path: Path, how: str) -> None:
    """Damage of a kind to one file."""
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "unreadable":  # also to root, who may read all files
        path.unlink()
        path.mkdir()
    else:
        made = {"cut": data[:-3], "empty": b"", "zeros": bytes(len(data)), "noise": b"\xa5" * len(data)}
        path.write_bytes(made[how])


HOW = ["cut", "empty", "zeros", "noise", "gone", "unreadable"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "while it is down"])
@pytest.mark.parametrize("stage", ["tasks", "finished", "job"])
def test_whatever_file_is_damaged_every_reply_comes_and_is_the_same(
    tmp_path: Path,
    aggregator: Any,
    new_aggregator: Callable[..., Any],
    stage: str,
    running: bool,
    how: str,
) -> None:
    """A task that was acknowledged is asked for again; one whose finished reply is lost is trained again."""
    client = make_client(aggregator, tmp_path)
    joined = client._join()
    if stage == "tasks":
        joined.train = lambda: None  # type: ignore[method-assign]
    else:
        aggregator.fault = lambda method, target, number: "away" if "/uploads" in target else None
    with suppress(Unreachable):
        client.step()
    joined.__dict__.pop("train", None)
    (path,) = [tmp_path / "job"] if stage == "job" else (tmp_path / aggregator.folder / stage).iterdir()
    spoil(path, how)
    aggregator.fault = lambda method, target, number: None
    if running and stage != "job":
        with suppress(Unreachable):
            client.step()
    client.close()
    go(aggregator, tmp_path)
    assert list(aggregator.results.values()) == new_aggregator().direct()


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("which", ["memory.bin", "memory/*.bin"])
def test_damaged_memory_is_set_aside_and_told_at_most_once(
    tmp_path: Path, aggregator: Any, which: str, how: str
) -> None:
    told: list[Failure] = []
    go(aggregator, tmp_path, results=2)
    for path in (tmp_path / aggregator.folder).glob(which):
        spoil(path, how)
    accept = aggregator.accept

    def hear(frame: bytes) -> None:
        reply = wire.decode(frame)
        if isinstance(reply, Failure):
            told.append(reply)
            aggregator.results[reply.key] = frame
            aggregator.settled[reply.key] = Verdict.refused
            if len(aggregator.results) < ROUNDS:
                aggregator.begin()
        else:
            accept(frame)

    aggregator.accept = hear
    go(aggregator, tmp_path)
    assert [failure.code for failure in told] in ([], ["memory"])
