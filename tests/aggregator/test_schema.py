"""Tables of an older fedkit become today's; those of a newer one are left alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedkit.aggregator.schema import FIRST, MIGRATIONS, migrate
from fedkit.errors import CheckpointError

SECOND = "ALTER TABLE clients ADD COLUMN colour TEXT NOT NULL DEFAULT 'grey'"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)
    yield made
    made.close()


def version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def tables(db: sqlite3.Connection) -> set[str]:
    return {str(row[0]) for row in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}


def test_a_new_journal_has_todays_tables_and_stays_as_it_is(db: sqlite3.Connection) -> None:
    migrate(db)
    made = tables(db)
    assert version(db) == len(MIGRATIONS)
    migrate(db)
    assert tables(db) == made


def test_what_an_older_fedkit_wrote_is_kept(db: sqlite3.Connection) -> None:
    migrate(db, (FIRST,))
    db.execute("INSERT INTO clients VALUES ('alice', 5.0)")
    migrate(db, (FIRST, SECOND))
    assert db.execute("SELECT * FROM clients").fetchall() == [("alice", 5.0, "grey")]
    assert version(db) == 2


def test_every_version_leads_to_the_same_tables(db: sqlite3.Connection, tmp_path: Path) -> None:
    migrate(db)
    for old in range(1, len(MIGRATIONS)):
        other = sqlite3.connect(tmp_path / f"{old}.sqlite", isolation_level=None)
        migrate(other, MIGRATIONS[:old])
        migrate(other)
        assert tables(other) == tables(db)
        other.close()


@pytest.mark.parametrize("broken", [f"{SECOND}; NOT SQL", "DROP TABLE clients; INSERT INTO none VALUES (1)"])
def test_a_step_that_fails_changes_nothing(db: sqlite3.Connection, broken: str) -> None:
    migrate(db, (FIRST,))
    before = tables(db)
    with pytest.raises(sqlite3.Error):
        migrate(db, (FIRST, broken))
    assert (version(db), tables(db)) == (1, before)
    migrate(db, (FIRST, SECOND))
    assert version(db) == 2


def test_a_newer_fedkits_tables_are_refused(db: sqlite3.Connection) -> None:
    migrate(db, (FIRST, SECOND))
    with pytest.raises(CheckpointError, match="version 2, this fedkit knows versions up to 1"):
        migrate(db, (FIRST,))
