"""A copy of an aggregator's folder that can be started in its place; it may run meanwhile.

The journal stands still for as long as it takes to copy it and to link the files it names, so what is
copied is what a crash at that instant would leave: the state of every restart. Two things stay behind:
what belongs to this process alone (locks, the operator's token), and vectors of secure sessions, which
end with the process. The copy says when it was made: who was revoked since, it does not know. And it is
a run of its own: to devices that have gone on since, its rounds would be old ones.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from fedkit.aggregator.leases import read
from fedkit.errors import ConfigError
from fedkit.runfolder import CHECKPOINT, lock_file

STAGE = "backup.tmp"
"""Where a copy is made, in the folder itself."""
TOKEN, ADDRESS = "operator.token", "operator.address"
_LEFT = ("lock", ADDRESS, TOKEN)
_FIRST = ("plan.json", CHECKPOINT)
"""Files of a run in the order opposite to that in which a round writes them."""


def stage(home: Path, db: sqlite3.Connection) -> Path:
    """Copy `home` into its own STAGE folder, with the journal open as `db`, in which nothing goes on."""
    to, at = home / STAGE, time.time()
    shutil.rmtree(to, ignore_errors=True)
    try:
        (to / "journal").mkdir(parents=True)
        to.chmod(0o700)
        copy = to / "journal" / "journal.sqlite"
        db.execute("VACUUM INTO ?", (str(copy),))
        secret = _become_copy(copy, at)
        for path in _files(home, secret):
            _link(path, to / path.relative_to(home))
    except BaseException:
        shutil.rmtree(to, ignore_errors=True)  # it may have filled the disk, which the run needs
        raise
    return to


def backup(home: Path, to: Path) -> None:
    """Copy the folder of an aggregator that does not run to `to`, which must not exist.

    ConfigError: it runs, or holds no journal, or `to` is there.
    """
    path = home / "journal" / "journal.sqlite"
    if not path.is_file():
        raise ConfigError(f"{home} holds no aggregator: there is no {path}")
    lock = lock_file(home / "journal" / "lock")
    try:
        db = sqlite3.connect(path, isolation_level=None)
        try:
            stage(home, db)
        finally:
            db.close()
        hand_over(home, to)
    finally:
        lock.close()


def hand_over(home: Path, to: Path) -> None:
    """Put the copy of `stage` where it is wanted, all of it and flushed. ConfigError: `to` is there."""
    made, beside = home / STAGE, to.with_name(f"{to.name}.{STAGE}")
    try:
        demand_new(to)
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(made, beside)
        os.sync()
        beside.rename(to)
    finally:
        for folder in (made, beside):
            shutil.rmtree(folder, ignore_errors=True)


def demand_new(to: Path) -> None:
    """ConfigError if something is at `to`."""
    if to.exists():
        raise ConfigError(f"{to} is there already: name a folder that is not")


def _become_copy(copy: Path, at: float) -> Collection[str]:
    """Have a copy of the journal say since when it knows nothing new, and take the id of its run and uploads
    of secure sessions out of it; their files.
    """
    db = sqlite3.connect(copy)
    try:
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("REPLACE INTO meta (name, value) VALUES ('copied', ?)", (at,))
        db.execute("DELETE FROM meta WHERE name = 'run'")
        rows = db.execute("SELECT key, name FROM tasks JOIN uploads ON uploads.task = id").fetchall()
        names = {name for key, name in rows if read(key).stage}
        db.executemany("DELETE FROM uploads WHERE name = ?", [(name,) for name in names])
        db.commit()
    finally:
        db.close()
    return names


def _files(home: Path, secret: Collection[str]) -> Iterator[Path]:
    """All files to be copied beside the journal itself, those of a run in their order."""
    folders = [home / "run" / name for name in _FIRST]
    yield from (path for path in folders if path.is_file())
    for path in sorted(home.rglob("*")):
        inside = path.relative_to(home)
        left = path.name in _LEFT or inside.parts[0] == STAGE or path.name.endswith(".tmp")
        journal = inside.parts[0] == "journal" and path.name.startswith("journal.sqlite")
        upload = inside.parts[:2] == ("journal", "uploads") and path.name in secret
        if path.is_file() and not (left or journal or upload or path in folders):
            yield path


def _link(path: Path, to: Path) -> None:
    """Files are replaced, never changed, or only grow: a second name holds what they are now."""
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, to)
    except FileNotFoundError:
        return  # it was swept away: the journal does not name it
    except OSError:
        shutil.copy2(path, to)
