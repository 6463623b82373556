"""The spool: what it says again after a restart, and what it does with files that are damaged or old."""

from __future__ import annotations

import errno
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedkit import wire
from fedkit.messages import EncodedUpdate, Key, Task
from fedkit_clients.edge.files import write_file
from fedkit_clients.edge.spool import Spool

pytestmark = pytest.mark.usefixtures("fast_disk")
MODEL = "ab" * 32


def key(number: int) -> Key:
    return Key("j" * 16, number, "train", "", 0, "c")


def task(number: int, deadline: float = 9.0) -> bytes:
    return wire.encode(Task(key(number), 1, {}, {}, {"lr": 0.1}, 5, 1.0, 9.0, "", deadline))


def name(frame: bytes) -> str:
    return hashlib.sha256(frame).hexdigest()


def reply(number: int) -> bytes:
    return wire.encode(EncodedUpdate(key(number), "none", b"abc", 1.0, {}, 1.0))


def memory(value: float) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    return {"residual": {"x/y": {"w": np.full(3, value, np.float32)}}, "strategy": {}}


def finished(spool: Spool, number: int) -> str:
    frame = task(number)
    spool.take(name(frame), MODEL, frame)
    spool.finish(name(frame), reply(number), memory(number))
    return name(frame)


def test_a_task_goes_through_its_stages_and_a_restart_finds_it_in_each(tmp_path: Path) -> None:
    frame = task(3)
    Spool(tmp_path).take(name(frame), MODEL, frame)
    spool = Spool(tmp_path)
    assert spool.next_task() == (name(frame), MODEL, wire.decode(frame))
    assert (spool.busy, spool.knows(name(frame)), spool.needed()) == (True, True, [MODEL])
    spool.finish(name(frame), reply(3), memory(3))
    spool = Spool(tmp_path)
    assert spool.next_task() is None
    assert spool.finished() == [(name(frame), key(3))]
    assert spool.reply(name(frame)) == reply(3)
    spool.acknowledged(name(frame))
    spool = Spool(tmp_path)
    assert (spool.busy, spool.finished(), spool.knows(name(frame))) == (False, [], True)
    pending = spool.pending()[key(3)]
    assert list(pending) == ["residual", "strategy"]
    np.testing.assert_array_equal(pending["residual"]["x/y"]["w"], np.full(3, 3, np.float32))
    spool.settle(key(3))
    spool = Spool(tmp_path)
    assert (spool.pending(), spool.settled, spool.knows(name(frame))) == ({}, [name(frame)], True)


def test_tasks_come_in_the_order_of_their_rounds(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for number in (5, 2, 9, 11):
        spool.take(name(task(number)), MODEL, task(number))
    found = []
    while one := spool.next_task():
        found.append(one[2].key.round)
        spool.finish(one[0], reply(found[-1]), {})
    assert found == [2, 5, 9, 11]


def test_what_was_committed_is_not_pending_after_a_crash_before_it_was_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    finished(spool, 1)
    spool.store.put("c", "strategy", {"s": {"w": np.ones(2, np.float32)}})
    monkeypatch.setattr(spool, "_forget", lambda name: None)  # the process dies after memory.bin is written
    spool.settle(key(1))
    again = Spool(tmp_path)
    assert again.pending() == {}
    assert again.finished() == []
    np.testing.assert_array_equal(again.store.get("c", "strategy")["s"]["w"], np.ones(2))


def test_memory_that_was_not_committed_is_not_there_after_a_crash(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    finished(spool, 1)
    spool.store.put("c", "strategy", {"s": {"w": np.ones(2, np.float32)}})
    again = Spool(tmp_path)
    assert again.store.get("c", "strategy") == {}
    assert list(again.pending()) == [key(1)]


def test_another_frame_for_a_task_that_is_here_is_passed_over(tmp_path: Path) -> None:
    spool, other = Spool(tmp_path), task(1, deadline=8.0)
    known = finished(spool, 1)
    spool.take(name(other), MODEL, other)
    assert spool.next_task() is None
    assert spool.finished() == [(known, key(1))]


def test_a_task_that_was_finished_before_the_crash_is_not_trained_again(tmp_path: Path) -> None:
    spool, frame = Spool(tmp_path), task(1)
    finished(spool, 1)
    (tmp_path / "tasks" / name(frame)).write_bytes(bytes.fromhex(MODEL) + frame)
    again = Spool(tmp_path)
    assert again.next_task() is None
    assert again.finished() == [(name(frame), key(1))]


@pytest.mark.parametrize("stage", ["tasks", "finished", "uploaded"])
def test_a_damaged_file_is_dropped_and_the_rest_stands(tmp_path: Path, stage: str) -> None:
    spool = Spool(tmp_path)
    finished(spool, 1)
    (tmp_path / stage / ("f" * 64)).write_bytes(b"torn")
    (tmp_path / stage / f"{'e' * 64}.tmp").write_bytes(b"half")
    again = Spool(tmp_path)
    assert again.next_task() is None
    assert [key for _, key in again.finished()] == [key(1)]
    assert not (tmp_path / stage / ("f" * 64)).exists()


def test_damaged_memory_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = Spool(tmp_path)
    finished(spool, 1)
    spool.settle(key(1))
    path = tmp_path / "memory.bin"
    path.write_bytes(path.read_bytes()[:-3])
    assert Spool(tmp_path).settled == []
    assert "memory.bin is damaged" in caplog.text
    assert (tmp_path / "damaged" / "memory.bin").exists()


def test_a_verdict_on_what_is_not_here_writes_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.settle(replace(key(1), client="other"))
    assert not (tmp_path / "memory.bin").exists()


def test_a_task_of_sessions_is_held_and_its_memory_waits_for_the_verdict(
    tmp_path: Path,
) -> None:
    spool, frame = Spool(tmp_path), task(1)
    spool.take(name(frame), MODEL, frame)
    spool.hold(name(frame))
    assert (spool.next_task(), spool.busy, spool.needed()) == (None, False, [MODEL])
    assert [(held, model, one.key) for held, model, one in Spool(tmp_path).held()] == [
        (name(frame), MODEL, key(1))
    ]
    assert Spool(tmp_path).pending() == {}
    spool.hold(name(frame), {"strategy": {"control": {"w": np.ones(2, np.float32)}}})
    again = Spool(tmp_path)
    assert again.pending()[key(1)]["strategy"]["control"]["w"].tolist() == [1.0, 1.0]
    assert [model for _, model, _ in again.held()] == [MODEL]
    again.settle(key(1))
    assert (again.held(), Spool(tmp_path).held(), Spool(tmp_path).knows(name(frame))) == ([], [], True)


def test_a_task_that_was_held_twice_is_one(tmp_path: Path) -> None:
    spool, frame = Spool(tmp_path), task(1)
    spool.take(name(frame), MODEL, frame)
    before = (tmp_path / "tasks" / name(frame)).read_bytes()
    spool.hold(name(frame))
    (tmp_path / "tasks" / name(frame)).write_bytes(before)  # the process died between the two writes
    again = Spool(tmp_path)
    assert (again.next_task(), len(again.held())) == (None, 1)


def test_what_a_crash_left_half_written_is_swept(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    (spool.folder / "finished" / f"{'0' * 64}.tmp").write_bytes(b"half")
    Spool(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_full_disk_keeps_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_file(tmp_path / "file", b"data")
    assert not list(tmp_path.iterdir())
