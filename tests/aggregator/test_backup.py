"""A copy is what a crash would leave, without what must not be copied."""

from __future__ import annotations

import errno
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedkit.aggregator import backup as backup_module
from fedkit.aggregator.backup import STAGE, backup, hand_over, stage
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.leases import Leases
from fedkit.aggregator.uploads import Uploads
from fedkit.errors import ConfigError


@pytest.fixture
def home(site: Any) -> Path:
    """The folder of an aggregator whose journal is that of the site, moved to where it belongs."""
    folder: Path = site.directory.parent / "home"
    (folder / "run" / "clients").mkdir(parents=True)
    (folder / "identity.pem").write_text("key")
    (folder / "identity.pem").chmod(0o600)
    for name in ("operator.token", "operator.address", "run/lock", "run/summary.json.tmp", "extra.crl"):
        (folder / name).write_text(name)
    for name in ("plan.json", "checkpoint.safetensors", "rounds.jsonl"):
        (folder / "run" / name).write_text(name)
    site.directory.rename(folder / "journal")
    return folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_everything_is_copied_but_locks_tokens_and_what_is_half_written(site: Any, home: Path) -> None:
    site.journal.close()
    to = home.parent / "copy"
    backup(home, to)
    blobs = {name for name in names(home) if name.startswith("journal/blobs/")}
    assert blobs
    assert names(to) == blobs | {
        *("identity.pem", "extra.crl", "journal/journal.sqlite"),
        *("run/plan.json", "run/checkpoint.safetensors", "run/rounds.jsonl"),
    }
    assert (to / "identity.pem").stat().st_mode & 0o777 == 0o600
    assert to.stat().st_mode & 0o777 == 0o700
    assert not (home / STAGE).exists()
    with pytest.raises(ConfigError, match="is there already"):
        backup(home, to)


def test_a_copy_goes_on_where_the_journal_stood(site: Any, home: Path) -> None:
    task = site.task("alice", 4)
    site.federation.send([task])
    site.leases.news("alice")
    before = time.time()
    with site.journal.held() as db:
        stage(home, db)
    site.federation.send([site.task("bob", 4)])
    hand_over(home, home.parent / "copy")
    journal = Journal(home.parent / "copy" / "journal")
    keys = [key for key, _ in Leases(journal, site.leases._blobs).open(0)]
    assert keys == [task.key], "what came after the copy is not in it"
    assert journal.meta("job_id") == site.job.id
    assert before <= float(journal.meta("copied") or 0.0) <= time.time(), "since then it knows nothing new"
    assert site.journal.meta("copied") is None
    assert (journal.meta("run"), len(str(site.journal.meta("run")))) == (None, 16), "a run of its own"
    journal.close()


def test_results_are_copied_vectors_of_secure_sessions_are_not(site: Any, home: Path) -> None:
    site.uploads = Uploads(site.journal, home / "journal" / "uploads")
    plain = site.task("alice")
    secret = replace(plain, key=replace(plain.key, stage="vectors", client="bob"))
    site.federation.send([plain, secret])
    for task in (plain, secret):
        site.deliver(task)
    with site.journal.held() as db:
        copy = stage(home, db)
    (kept,) = (copy / "journal" / "uploads").iterdir()
    db = sqlite3.connect(copy / "journal" / "journal.sqlite")
    assert db.execute("SELECT name, turn FROM uploads JOIN replies USING (task)").fetchall() == [
        (kept.name, 1)
    ]
    db.close()
    assert len(list((home / "journal" / "uploads").iterdir())) == 2


def test_the_journal_stands_still_meanwhile(site: Any, home: Path) -> None:
    done = threading.Event()

    def put() -> None:
        site.journal.put(x=1)
        done.set()

    with site.journal.held() as db:
        writer = threading.Thread(target=put)
        writer.start()
        stage(home, db)
        assert not done.is_set()
    writer.join(600)
    assert done.is_set()


def test_one_that_runs_is_not_copied_behind_its_back(site: Any, home: Path) -> None:
    with pytest.raises(ConfigError, match="in use"):
        backup(home, home.parent / "copy")
    with pytest.raises(ConfigError, match="holds no aggregator"):
        backup(home.parent / "nothing", home.parent / "copy")


def test_a_copy_that_fails_leaves_nothing_behind(
    site: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as broken:
        broken.setattr(backup_module, "_link", full)
        with site.journal.held() as db, pytest.raises(OSError, match="no space"):
            stage(home, db)
    assert not (home / STAGE).exists()
    with site.journal.held() as db:
        stage(home, db)
    with monkeypatch.context() as broken:
        broken.setattr("os.sync", full)
        with pytest.raises(OSError, match="no space"):
            hand_over(home, tmp_path / "copy")
    assert not [path for path in (home / STAGE, *tmp_path.glob("copy*")) if path.exists()]
