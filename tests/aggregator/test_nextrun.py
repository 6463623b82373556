"""From one run to the next: tasks and models go, devices stay."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fedkit.aggregator.journal import Journal
from fedkit.aggregator.nextrun import retire
from fedkit.errors import ConfigError
from fedkit.federation import Verdict

TABLES = ("tasks", "uploads", "replies", "releases", "tellings", "members", "clients", "nonces")


def rows(directory: Path) -> dict[str, int]:
    with closing(Journal(directory / "journal")) as journal, journal.transaction() as db:
        return {name: db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in TABLES}


@pytest.fixture
def folder(site: Any, tmp_path: Path) -> Path:
    """An aggregator's folder whose run has been going on: tasks in all states, devices known."""
    done, waits = site.task("alice"), site.task("bob")
    site.federation.send([done, waits, site.task("alice", round=1)])
    site.deliver(done)
    site.federation.settle({waits.key: Verdict.lost})
    site.journal.admit("alice", "00" * 16, 1_790_000_000, 1_790_000_000.0)
    with site.journal.transaction() as db:
        db.execute(
            "INSERT INTO members (serial, client, key, begins, ends, active) VALUES ('1','c',x'00',0,9,1)"
        )
        db.execute("INSERT INTO tellings VALUES (1, 0, '', 0)")
    site.journal.put(**{"crl_number 00": 7, "revoked 00": "2"})
    site.journal.beat()
    site.journal.close()
    home = tmp_path / "home"
    home.mkdir()
    site.directory.rename(home / "journal")
    (home / "run").mkdir()
    (home / "run" / "summary.json").write_text("{}")
    return home


def test_tasks_and_models_go_and_devices_stay(folder: Path) -> None:
    before = rows(folder)
    assert all(before.values()), "there is something of everything"
    assert retire(folder) == folder / "run-1"
    assert (folder / "run-1" / "summary.json").read_text() == "{}"
    assert not (folder / "run").exists()
    gone = dict.fromkeys(("tasks", "uploads", "replies", "releases", "tellings"), 0)
    assert rows(folder) == before | gone
    with closing(Journal(folder / "journal")) as journal:
        assert [journal.meta(name) for name in ("job", "job_id", "run", "most", "up")] == [None] * 5
        assert (journal.meta("crl_number 00"), journal.meta("revoked 00")) == (7, "2")


def test_each_is_kept_under_its_own_name(folder: Path) -> None:
    retire(folder)
    for number in (2, 3):
        (folder / "run").mkdir()
        assert retire(folder) == folder / f"run-{number}"


def test_not_under_a_running_aggregator(folder: Path) -> None:
    with closing(Journal(folder / "journal")), pytest.raises(ConfigError):
        retire(folder)
    assert (folder / "run").exists()
