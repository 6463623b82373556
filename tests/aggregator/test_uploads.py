"""Results on their way in: resumed at any byte, accepted once, gone when settled."""

from __future__ import annotations

import errno
import hashlib
import itertools
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedkit import wire
from fedkit.aggregator.persevering import is_of_the_disk
from fedkit.aggregator.refusal import Refusal
from fedkit.federation import Verdict
from fedkit.messages import EncodedUpdate, Failure, Key

ROUNDS = itertools.count()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def result(key: Key, weight: float = 1.0) -> bytes:
    return wire.encode(EncodedUpdate(key, "none", bytes(32), weight, {}, 1.0))


def sent(site: Any, client: str = "alice") -> Key:
    task = site.task(client)
    site.federation.send([task])
    site.leases.news(client)[1]
    key: Key = task.key
    return key


def received(site: Any) -> list[Any]:
    return list(site.federation.receive(site.federation.now()))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.tuples(st.integers(1, 90), st.booleans()), max_size=8))
def test_an_upload_is_resumed_anywhere(site: Any, cuts: list[tuple[int, bool]]) -> None:
    round = next(ROUNDS)
    task = site.task("alice", round)
    site.federation.send([task])
    site.leases.news("alice")[1]
    frame = result(task.key, weight=float(round))
    name, offset = site.uploads.begin("alice", task.key, len(frame), sha(frame))
    for size, restart in [*cuts, (len(frame), False)]:
        if restart:
            site.again()
        assert site.uploads.begin("alice", task.key, len(frame), sha(frame)) == (name, offset)
        offset, whole = site.uploads.append("alice", name, offset, frame[offset : offset + size])
        assert whole == len(frame)
        assert site.uploads.offset("alice", name) == (offset, whole)
    (arrival,) = received(site)
    assert arrival.reply == wire.decode(frame)
    site.federation.settle({task.key: Verdict.counted})


def test_a_gap_or_an_overlap_is_refused_and_says_where_to_go_on(site: Any) -> None:
    key = sent(site)
    frame = result(key)
    name, _ = site.uploads.begin("alice", key, len(frame), sha(frame))
    site.uploads.append("alice", name, 0, frame[:10])
    for offset in (0, 9, 11):
        with pytest.raises(Refusal) as refused:
            site.uploads.append("alice", name, offset, b"x")
        assert (refused.value.status, refused.value.headers["Upload-Offset"]) == (409, "10")
    with pytest.raises(Refusal, match="were announced"):
        site.uploads.append("alice", name, 10, frame)
    assert site.uploads.append("alice", name, 10, frame[10:]) == (len(frame), len(frame))


def test_a_second_copy_is_acknowledged_and_ignored(site: Any) -> None:
    key = sent(site)
    frame = result(key)
    name, _ = site.uploads.begin("alice", key, len(frame), sha(frame))
    site.uploads.append("alice", name, 0, frame)
    assert site.uploads.begin("alice", key, len(frame), sha(frame)) == (name, len(frame))
    assert site.uploads.append("alice", name, 0, frame) == (len(frame), len(frame))
    assert len(received(site)) == 1
    site.federation.settle({key: Verdict.counted})
    assert site.uploads.begin("alice", key, len(frame), sha(frame)) == (name, len(frame))
    assert received(site) == []


def test_a_result_that_comes_hours_later_counts_while_its_task_is_open(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device was cut off in the middle of its upload: its lease ran out long ago."""
    key, now = sent(site), site.journal.now
    frame = result(key)
    name, _ = site.uploads.begin("alice", key, len(frame), sha(frame))
    site.uploads.append("alice", name, 0, frame[:7])
    monkeypatch.setattr(site.journal, "now", lambda: now() + 6 * 3600)
    _, again = site.leases.news("alice")
    assert [lease.id for lease in again] == [1], "it is offered again"
    assert site.uploads.begin("alice", key, len(frame), sha(frame)) == (name, 7), "and goes on at byte 7"
    site.uploads.append("alice", name, 7, frame[7:])
    assert [arrival.key for arrival in received(site)] == [key]
    assert site.leases.news("alice")[1] == []


def test_another_result_for_the_same_key_is_refused_once_one_was_accepted(site: Any) -> None:
    key = sent(site)
    frame, other = result(key), result(key, 2.0)
    name, _ = site.uploads.begin("alice", key, len(frame), sha(frame))
    site.uploads.append("alice", name, 0, frame)
    with pytest.raises(Refusal, match="another result") as refused:
        site.uploads.begin("alice", key, len(other), sha(other))
    assert (refused.value.status, refused.value.word) == (409, "other")
    assert [arrival.reply for arrival in received(site)] == [wire.decode(frame)]


@pytest.mark.parametrize("held", [0, 20, -1])
@pytest.mark.parametrize("longer", [False, True])
def test_a_result_that_was_made_anew_takes_the_place_of_a_part_of_the_old(
    site: Any, held: int, longer: bool
) -> None:
    """A device whose spool was damaged has trained again. It must not wait for bytes that nobody has."""
    key = sent(site)
    old, new = result(key), result(key, 2.0)
    old = old + bytes(9) if longer else old
    name, _ = site.uploads.begin("alice", key, len(old), sha(old))
    if held:
        site.uploads.append("alice", name, 0, old[:held])
    site.again()
    assert site.uploads.begin("alice", key, len(new), sha(new)) == (name, 0)
    site.uploads.append("alice", name, 0, new[:30])
    assert site.again().uploads.begin("alice", key, len(new), sha(new)) == (name, 30)
    site.uploads.append("alice", name, 30, new[30:])
    assert [arrival.reply for arrival in received(site)] == [wire.decode(new)]


def test_bytes_that_are_not_those_announced_are_thrown_away(site: Any) -> None:
    key = sent(site)
    frame = result(key)
    name, _ = site.uploads.begin("alice", key, len(frame), sha(frame))
    with pytest.raises(Refusal) as refused:
        site.uploads.append("alice", name, 0, bytes(len(frame)))
    assert (refused.value.status, refused.value.word) == (422, "digest")
    assert received(site) == []
    assert site.uploads.offset("alice", name) == (0, len(frame))
    site.uploads.append("alice", name, 0, frame)
    assert len(received(site)) == 1


def test_nobody_uploads_for_another_or_for_what_was_never_asked(site: Any) -> None:
    key = sent(site)
    frame = result(key)
    with pytest.raises(Refusal, match="no such task"):
        site.uploads.begin("bob", key, len(frame), sha(frame))
    name, _ = site.uploads.begin("alice", key, len(frame), sha(frame))
    with pytest.raises(Refusal, match="no such upload"):
        site.uploads.append("bob", name, 0, frame)
    with pytest.raises(Refusal, match="no such upload"):
        site.uploads.offset("bob", name)


def test_sizes_are_bounded_by_the_job(site: Any) -> None:
    key = sent(site)
    most = site.journal.meta("most")
    assert most < 100_000
    for size in (0, most + 1):
        with pytest.raises(Refusal) as refused:
            site.uploads.begin("alice", key, size, sha(b""))
        assert refused.value.status == 413
    site.uploads.begin("alice", key, most, sha(b""))


def test_files_of_settled_uploads_are_removed(site: Any) -> None:
    keys = [sent(site, client) for client in ("alice", "bob")]
    for key in keys:
        site.uploads.begin(key.client, key, 1000, sha(b""))
    folder: Path = site.directory / "uploads"
    assert len(list(folder.iterdir())) == 2
    site.federation.settle({keys[0]: Verdict.late})
    assert len(list(folder.iterdir())) == 1
    name, offset = site.uploads.begin("alice", keys[0], 1000, sha(b""))
    assert offset == 1000, "not wanted any more: nothing is left to send"
    with pytest.raises(Refusal) as refused:
        site.uploads.append("alice", name, 0, b"x")
    assert refused.value.status == 404


@pytest.mark.parametrize("kind", ["noise", "other key", "a task"])
def test_what_is_no_result_becomes_a_failure_of_its_client(site: Any, kind: str) -> None:
    key = sent(site)
    other = Key(key.job, key.round, "train", "", 0, "bob")
    frames = {"noise": b"noise", "other key": result(other), "a task": wire.encode(site.task("alice"))}
    frame = frames[kind]
    name, _ = site.uploads.begin("alice", key, len(frame), sha(frame))
    site.uploads.append("alice", name, 0, frame)
    (arrival,) = received(site)
    assert arrival.key == arrival.reply.key == key
    assert isinstance(arrival.reply, Failure)
    assert arrival.reply.code == "wire"


def test_an_upload_that_was_whole_before_a_crash_is_accepted_after_it(site: Any) -> None:
    """The crash comes between the last byte and the journal."""
    key = sent(site)
    frame = result(key)
    name, _ = site.uploads.begin("alice", key, len(frame), sha(frame))
    (site.directory / "uploads" / name).write_bytes(frame)
    site.again()
    assert received(site) == [], "nobody was told that it is safe"
    assert site.uploads.begin("alice", key, len(frame), sha(frame)) == (name, len(frame))
    assert len(received(site)) == 1


def test_a_file_that_a_power_cut_took_is_begun_again(site: Any) -> None:
    key = sent(site)
    frame = result(key)
    name, _ = site.uploads.begin("alice", key, len(frame), sha(frame))
    site.uploads.append("alice", name, 0, frame[:20])
    (site.directory / "uploads" / name).unlink()
    with pytest.raises(Refusal) as refused:
        site.uploads.append("alice", name, 20, frame[20:])
    assert refused.value.status == 404
    assert site.uploads.begin("alice", key, len(frame), sha(frame)) == (name, 0)


def test_what_cannot_be_opened_now_is_not_lost(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    key = sent(site)
    frame = result(key)
    name, _ = site.uploads.begin("alice", key, len(frame), sha(frame))
    site.uploads.append("alice", name, 0, frame)

    def too_many(*_: object) -> bytes:
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", too_many)
        with pytest.raises(OSError, match="too many") as found:
            received(site)
    assert is_of_the_disk(found.value), "the run waits and begins again from its checkpoint"
    site.again()
    (arrival,) = received(site)
    assert arrival.reply == wire.decode(frame)


def test_who_begins_while_another_result_comes_whole_does_not_harm_it(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two requests of one device at the same time: a retry of it, and its code may be anybody's."""
    key = sent(site)
    old, new = result(key), wire.encode(EncodedUpdate(key, "none", bytes(64), 1.0, {}, 1.0))
    find, put = site.uploads._find, threading.Event()

    def whole() -> None:
        with (site.directory / "body").open("x+b") as body:
            body.write(new)
            site.uploads.put("alice", wire.name_of(key), body, sha(new))
        put.set()

    def slow(client: str, name: str) -> Any:
        found = find(client, name)
        other.start()
        put.wait(0.2)  # it has to wait for us
        return found

    other = threading.Thread(target=whole)
    monkeypatch.setattr(site.uploads, "_find", slow)
    site.uploads.begin("alice", key, len(old), sha(old))
    other.join(600)
    (reply,) = site.uploads.replies(0)
    assert (site.directory / "uploads" / reply.name).read_bytes() == new
