"""What an aggregator must not forget, and what a restart makes of it."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from fedkit.aggregator.journal import Journal
from fedkit.aggregator.schema import MIGRATIONS
from fedkit.errors import CheckpointError, ConfigError
from fedkit.federation import Traffic
from fedkit.signing import SKEW


def test_values_survive_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.put(durable=True, job=b"\0job", most=7)
    journal.count(up=3, down=5)
    journal.beat()
    journal.close()
    again = Journal(tmp_path)
    assert (again.meta("job"), again.meta("most"), again.meta("nothing")) == (b"\0job", 7, None)
    assert again.traffic() == Traffic(3, 5)
    again.close()


def test_what_devices_send_is_for_no_other_user_of_the_machine(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Journal(tmp_path / "aggregator" / "journal").close()
    finally:
        os.umask(before)
    assert (tmp_path / "aggregator" / "journal").stat().st_mode & 0o777 == 0o700


def test_the_clock_begins_at_unix_time_and_stands_still_while_nobody_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, journal = time.time(), Journal(tmp_path)
    assert began - 1 <= journal.now() <= time.time() + 1
    journal.beat()
    before = journal.now()
    journal.close()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86_400)
    again = Journal(tmp_path)
    assert before - 1 <= again.now() < before + 43_200
    again.close()


def test_the_clock_never_goes_back_behind_what_it_has_dated(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.beat()
    time.sleep(0.02)
    journal.admit("alice", "00", int(time.time()), time.time())
    seen = journal.seen("alice")
    journal.close()
    again = Journal(tmp_path)
    assert again.now() >= seen == again.seen("alice")
    again.close()


def test_a_nonce_is_good_once_for_each_client_also_after_a_restart(tmp_path: Path) -> None:
    journal, now = Journal(tmp_path), 1000.0
    assert journal.admit("alice", "00", 1000, now)
    assert not journal.admit("alice", "00", 1000, now)
    assert journal.admit("bob", "00", 1000, now)
    journal.close()
    again = Journal(tmp_path)
    assert not again.admit("alice", "00", 1000, now)
    assert not again.admit("alice", "00", 1000, now + 2 * SKEW)
    assert again.admit("alice", "00", 1000, now + 2 * SKEW + 1), "old nonces are not kept for ever"
    again.close()


def test_a_transaction_happens_whole_or_not_at_all(tmp_path: Path) -> None:
    journal = Journal(tmp_path)

    def half() -> None:
        with journal.transaction() as db:
            db.execute("REPLACE INTO meta VALUES ('a', 1)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert journal.meta("a") is None
    journal.put(a=2)
    assert journal.meta("a") == 2
    journal.close()


def test_one_process_has_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(ConfigError, match="in use by another process"):
        Journal(tmp_path)
    journal.close()
    Journal(tmp_path).close()


def test_tables_of_a_newer_fedkit_are_not_touched(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    with sqlite3.connect(tmp_path / "journal.sqlite") as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(
        CheckpointError,
        match=f"versions up to {len(MIGRATIONS)}: it was written",
    ):
        Journal(tmp_path)


def test_damage_is_told(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(CheckpointError, match="cannot be continued"):
        Journal(tmp_path)


def test_a_file_where_the_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot hold a journal"):
        Journal(tmp_path / "file")


def test_waiting_ends_when_something_comes(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    ticks = journal.ticks
    timer = threading.Timer(0.05, journal.wake)
    timer.start()
    end = time.monotonic() + 600.0
    journal.wait(ticks, 600.0)
    assert journal.ticks == ticks + 1
    journal.wait(ticks, 600.0)  # it came already
    assert time.monotonic() < end
    timer.join()
    journal.close()


def test_listeners_are_told(tmp_path: Path) -> None:
    journal, heard = Journal(tmp_path), list[object]()
    journal.listen(heard.append)
    journal.tell({"alice"})
    assert heard == [{"alice"}]
    journal.close()


def test_a_client_that_is_heard_of_for_the_first_time_since_the_start_wakes_who_waits(tmp_path: Path) -> None:
    """After a restart it may have been heard of a second ago, on the clock of the run."""
    journal = Journal(tmp_path)
    journal.admit("alice", "00", 0, 0.0)
    journal.close()
    journal = Journal(tmp_path)
    assert 0.0 < journal.seen("alice") <= journal.opened
    woken = []
    for nonce in ("01", "02"):
        before = journal.ticks
        journal.admit("alice", nonce, 0, 0.0)
        woken.append(journal.ticks > before)
    journal.close()
    assert woken == [True, False]
