"""A disk that is full for a while costs time, nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedkit.aggregator.journal import Journal
from fedkit.aggregator.persevering import is_of_the_disk, persevering
from fedkit.errors import RunFailed


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal")
    yield made
    made.close()


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def test_what_the_disk_is_behind() -> None:
    full, gone = OSError(28, "No space left on device"), OSError(2, "No such file")
    assert is_of_the_disk(full)
    assert is_of_the_disk(chained(RunFailed("cannot be written"), full))
    assert not is_of_the_disk(gone)
    assert not is_of_the_disk(RunFailed("the model diverged"))
    assert not is_of_the_disk(None)


def test_a_real_full_database_is_known(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "db", isolation_level=None)
    db.execute("PRAGMA max_page_count = 4")
    db.execute("CREATE TABLE t (x)")
    with pytest.raises(sqlite3.OperationalError) as full:
        db.execute("INSERT INTO t VALUES (zeroblob(400000))")
    assert is_of_the_disk(full.value)
    with pytest.raises(sqlite3.OperationalError) as wrong:
        db.execute("SELECT * FROM nothing")
    assert not is_of_the_disk(wrong.value)
    db.close()


def test_it_waits_while_nothing_can_be_written_and_then_resumes(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives, waits = list[bool](), list[float]()
    run = tmp_path / "home" / "run"  # the folder above it is not there: nothing can be written

    def go(resume: bool) -> str:
        lives.append(resume)
        if len(lives) == 1:
            raise chained(RunFailed("cannot be written"), OSError(28, "full"))
        return "done"

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        assert len(lives) == 1
        if len(waits) == 3:
            run.mkdir(parents=True)

    assert persevering(go, journal, run, False, sleep) == "done"
    assert (lives, len(waits)) == ([False, True], 3)
    assert list(run.parent.iterdir()) == [run]


def test_other_errors_end_it(journal: Journal, tmp_path: Path) -> None:
    def go(resume: bool) -> None:
        raise RunFailed("the model diverged")

    with pytest.raises(RunFailed, match="diverged"):
        persevering(go, journal, tmp_path / "run", True)
