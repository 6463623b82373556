"""What a client remembers of secure sessions: the same after any crash, and no more than it must."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedkit.errors import CheckpointError
from fedkit.messages import Kind
from fedkit.secagg.identity import Floors, SigningKey, Trust
from fedkit.secagg.memory import MemorySessions, Sessions
from fedkit_clients.edge import sessions
from fedkit_clients.edge.membership import Membership
from fedkit_clients.edge.sessions import NAME, DiskSessions, vouch

pytestmark = pytest.mark.usefixtures("fast_disk")
SIDS = [bytes([n]) * 32 for n in range(3)]
MODELS = [bytes([n]) * 32 for n in range(2)]
JOBS, ROUNDS = ("j1", "j2"), range(4)
KINDS: tuple[Kind, ...] = ("train", "evaluate")
ROW = st.tuples(
    st.sampled_from(("seen", "joined", "sign")),
    st.sampled_from(SIDS),
    st.sampled_from(JOBS),
    st.sampled_from(ROUNDS),
    st.sampled_from(KINDS),
    st.sampled_from(MODELS),
)


def test_a_device_masks_with_the_threads_that_it_has_cores_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "mask_threads", lambda: 3)
    who = Membership("https://a.example", "a", SigningKey(bytes(32)), Trust.none())
    assert vouch(who, tmp_path, Floors()).threads == 3


def do(row: tuple[str, bytes, str, int, Kind, bytes], of: Sessions) -> object:
    """One thing that a session does."""
    word, sid, job, round, kind, model = row
    if word == "seen":
        return of.seen(sid)
    if word == "joined":
        return of.joined(job, round, kind)
    of.sign(job, round, kind, model)
    return None


def signed(of: Sessions) -> list[bool]:
    return [of.signed(j, r, k, m) for j in JOBS for r in ROUNDS for k in KINDS for m in MODELS]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, max_size=12), lines=st.integers(1, 4))
def test_it_remembers_what_memory_does_from_one_life_to_the_next(
    rows: list[tuple[str, bytes, str, int, Kind, bytes]],
    lines: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / NAME).unlink(missing_ok=True)
    monkeypatch.setattr(sessions, "LINES", lines)
    memory = MemorySessions()
    for row in rows:
        word, _, job, round, kind, _ = row
        over = word == "joined" and memory.signed(job, round, kind, b"")  # nobody counts those any more
        assert do(row, DiskSessions(tmp_path)) == do(row, memory) or over
    assert signed(DiskSessions(tmp_path)) == signed(memory)


def test_nothing_is_said_before_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    disk = DiskSessions(tmp_path)
    disk.seen(SIDS[0])
    assert len(flushed) == 2, "the file and its folder"
    disk.joined("j1", 0, "train")
    disk.sign("j1", 0, "train", MODELS[0])
    assert len(flushed) == 4
    assert disk.seen(SIDS[0])
    assert len(flushed) == 4, "it was there"


def test_a_line_that_a_crash_cut_short_was_never_acted_on(tmp_path: Path) -> None:
    DiskSessions(tmp_path).sign("j1", 2, "train", MODELS[0])
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole + whole[:-1])
    disk = DiskSessions(tmp_path)
    assert disk.signed("j1", 2, "train", MODELS[1])
    assert (tmp_path / NAME).read_bytes() == whole
    disk.sign("j1", 3, "train", MODELS[0])
    assert DiskSessions(tmp_path).signed("j1", 3, "train", MODELS[1])


@pytest.mark.parametrize(
    "line",
    [
        b"{}", b"[]", b"[1]",
        b'["seen"]', b'["seen","zz"]', b'["joined","j",0]', b'["joined","j",-1,"train"]',
        b'["joined","j",0,"both"]', b'["signed","j",0,"train"]', b'["signed","j",0,"train","xy"]', b"\xff",
    ],
)  # fmt: skip
def test_a_file_that_is_damaged_is_not_forgotten(line: bytes, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(line + b"\n")
    with pytest.raises(CheckpointError, match="is damaged"):
        DiskSessions(tmp_path)


def test_the_file_of_years_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "LINES", 100)
    monkeypatch.setattr(sessions, "SEEN", 10)
    disk = DiskSessions(tmp_path)
    for round in range(100):
        disk.seen(round.to_bytes(32, "big"))
        disk.joined("j1", round, "train")
        disk.sign("j1", round, "train", bytes(32))
    disk.joined("j1", 100, "train")
    again = DiskSessions(tmp_path)
    assert len((tmp_path / NAME).read_bytes().splitlines()) == 12
    assert again.signed("j1", 99, "train", bytes(32))
    assert again.joined("j1", 100, "train") == 1
    assert again.seen((99).to_bytes(32, "big"))


def test_it_stays_small_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for session after session fills neither the disk nor the memory of a device."""
    monkeypatch.setattr(sessions, "LINES", 100)
    monkeypatch.setattr(sessions, "SEEN", 10)
    disk = DiskSessions(tmp_path)
    longest = 0
    for number in range(1000):
        assert not disk.seen(number.to_bytes(32, "big"))
        assert disk.joined("j1", number, "train") == 0
        disk.sign("j1", number, "train", bytes(32))
        assert disk.seen(number.to_bytes(32, "big"))
        assert disk.signed("j1", number, "train", MODELS[0])
        longest = max(longest, len((tmp_path / NAME).read_bytes().splitlines()))
    assert 150 < longest <= 201
    assert all(disk.seen(number.to_bytes(32, "big")) for number in range(990, 1000))


def test_a_full_disk_at_a_restart_is_an_error_that_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "LINES", 3)
    disk = DiskSessions(tmp_path)
    for round in range(5):
        disk.sign("j1", round, "train", MODELS[0])
    before = (tmp_path / NAME).read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):  # which a client waits out
            DiskSessions(tmp_path)
    assert (tmp_path / NAME).read_bytes() == before
    assert DiskSessions(tmp_path).signed("j1", 4, "train", MODELS[1])


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_its_owner_alone_may_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask: int) -> None:
    monkeypatch.setattr(sessions, "LINES", 3)
    before = os.umask(mask)
    try:
        disk = DiskSessions(tmp_path)
        for round in range(5):
            disk.sign("j1", round, "train", MODELS[0])
            assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
        DiskSessions(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600, "made shorter, it is still so"


def test_a_line_that_a_full_disk_cut_short_does_not_run_into_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = DiskSessions(tmp_path)
    disk.sign("j1", 2, "train", MODELS[0])

    def full(handle: int) -> None:
        os.ftruncate(handle, os.fstat(handle).st_size - 9)
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            disk.joined("j1", 3, "train")
    disk.joined("j1", 4, "train")
    again = DiskSessions(tmp_path)
    assert again.signed("j1", 2, "train", MODELS[1])
    assert (again.joined("j1", 3, "train"), again.joined("j1", 4, "train")) == (0, 1)
