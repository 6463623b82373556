"""A fleet across a socket is the fleet; what breaks on the way is told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fedkit.errors import RunFailed, WireError
from fedkit_clients.flower import bridge
from fedkit_clients.flower.bridge import BridgeFleet, serve
from fedkit_clients.flower.fleet import Call, Fleet, Reply


class Far:
    """A fleet that notes what it is asked."""

    def __init__(self) -> None:
        self.pushed: list[tuple[int, Call, bytes, float]] = []
        self.broken = False

    def nodes(self) -> Sequence[int]:
        if self.broken:
            raise ConnectionError("a secret address")
        return [7, 1 << 63]

    def push(self, node: int, call: Call, blob: bytes, ttl: float) -> str:
        self.pushed.append((node, call, blob, ttl))
        return "m1"

    def pull(self, messages: Sequence[str]) -> Sequence[Reply]:
        known = {"m1": Reply("m1", b"x" * 3_000_000), "m2": Reply("m2", b"", ("NODE_UNAVAILABLE", ""))}
        return [known[name] for name in messages if name in known]


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[[Fleet], BridgeFleet]]:
    """The near end of a bridge to a fleet that is served by another thread."""
    ends: list[Any] = []

    def make(far: Fleet) -> BridgeFleet:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(tmp_path / "s"))
            listening.listen(1)
            thread = threading.Thread(target=serve, args=(tmp_path / "s", far))
            thread.start()
            near = BridgeFleet(listening.accept()[0])
        ends.append((near, thread))
        return near

    yield make
    for near, thread in ends:
        near.close()
        thread.join()


def test_calls_go_across(connect: Callable[[Fleet], BridgeFleet]) -> None:
    far = Far()
    near = connect(far)
    assert near.nodes() == [7, 1 << 63]
    assert near.push(1 << 63, "train", b"blob", 2.5) == "m1"
    assert far.pushed == [(1 << 63, "train", b"blob", 2.5)]
    assert near.pull([]) == []
    assert near.pull(["m1", "m2", "m3"]) == far.pull(["m1", "m2"])


def test_what_flower_raises_is_told_by_its_class(connect: Callable[[Fleet], BridgeFleet]) -> None:
    far = Far()
    near = connect(far)
    far.broken = True
    with pytest.raises(RunFailed, match="ConnectionError") as caught:
        near.nodes()
    assert "secret" not in str(caught.value)


def test_an_end_without_a_word_is_told() -> None:
    one, other = socket.socketpair()
    other.close()
    with pytest.raises(RunFailed, match="ServerApp has ended"):
        BridgeFleet(one).nodes()
    one.close()


def test_a_length_beyond_the_limit_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "LIMIT", 100)
    one, other = socket.socketpair()
    with one, other:
        other.sendall((101).to_bytes(8, "little"))
        with pytest.raises(WireError, match="limit"):
            BridgeFleet(one).nodes()
