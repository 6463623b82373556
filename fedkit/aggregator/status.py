"""What the journal knows, for people: tasks, uploads under way, clients, room on the disk."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from fedkit.aggregator.leases import read
from fedkit.aggregator.seats import seated
from fedkit.errors import CheckpointError
from fedkit.messages import ClientId

_TASKS = """
SELECT key, client,
    CASE WHEN verdict IS NOT NULL THEN 'untold' WHEN turn IS NOT NULL THEN 'arrived'
        WHEN name IS NOT NULL THEN 'uploading' WHEN acked IS NOT NULL THEN 'training'
        WHEN leased IS NOT NULL THEN 'offered' ELSE 'waiting' END,
    name, uploads.bytes
FROM tasks LEFT JOIN uploads ON uploads.task = id LEFT JOIN replies ON replies.task = id ORDER BY id
"""
STATES = ("waiting", "offered", "training", "uploading", "arrived", "untold")
"""How far a task can be; `untold`: its client has not heard the verdict yet."""


def standing(directory: Path, known: Iterable[ClientId] = (), now: float | None = None) -> dict[str, Any]:
    """A journal's tasks, uploads, clients and files, as JSON; another process may have it.

    known: clients to list beside those heard of. now: on the clock of the run; None: when it stood still.
    CheckpointError: there is no journal that this fedkit can read.
    """
    path = directory / "journal.sqlite"
    if not path.is_file():
        raise CheckpointError(f"{directory.parent} holds no aggregator: there is no {path}; check --dir")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10.0)) as db:
            rows = db.execute(_TASKS).fetchall()
            meta = dict(db.execute("SELECT name, value FROM meta WHERE name != 'job'"))
            lists = db.execute("SELECT value FROM meta WHERE name LIKE 'revoked %'").fetchall()
            heard = db.execute("SELECT client, seen, version FROM clients").fetchall()
            held = db.execute(
                "SELECT client, serial, ends FROM members WHERE active ORDER BY turn"
            ).fetchall()
            asking = db.execute("SELECT client FROM enrolments WHERE answer IS NULL ORDER BY at").fetchall()
    except sqlite3.Error as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    then = float(meta.get("alive") or 0.0) if now is None else now
    pause = float(meta.get("pause") or 0.0)
    clients = {client: _client(client) for client in known}
    clients |= {client: _client(client, max(0.0, then - seen), version) for client, seen, version in heard}
    for key, client, state, _, _ in rows:
        clients.setdefault(client, _client(client))["tasks"].append(f"round {read(key).round + 1} {state}")
    revoked = {serial for (told,) in lists for serial in str(told).split(",")}
    newest = {client: (serial, ends) for client, serial, ends in held}
    for client, row in clients.items():
        serial, row["certificate"] = newest.get(client, ("", None))
        row["revoked"] = serial in revoked - {""}
    return {
        "job": meta.get("job_id"),
        "pause": max(0.0, pause - then),
        "places": _places(meta.get("room"), [(client, serial) for client, serial, _ in held], revoked),
        "enrolments": [client for (client,) in asking],
        "tasks": {state: sum(row[2] == state for row in rows) for state in STATES},
        "uploads": [_upload(directory, *row) for row in rows if row[2] == "uploading"],
        "clients": [clients[name] for name in sorted(clients)],
        "traffic": {"up": int(meta.get("up") or 0), "down": int(meta.get("down") or 0)},
        "disk": room(directory),
    }


def _client(client: ClientId, seen: float | None = None, protocol: int | None = None) -> dict[str, Any]:
    return {"client": client, "seen": seen, "protocol": protocol, "tasks": []}


def _places(
    room: float | None, held: list[tuple[ClientId, str]], revoked: set[str]
) -> dict[str, object] | None:
    """Places for devices and who waits for one; None where a roster has them all."""
    if not room:
        return None
    seats = seated(held, revoked, int(room))
    return {"room": seats.room, "taken": len(seats.held), "free": seats.free, "waiting": list(seats.waiting)}


def _upload(
    directory: Path, key: str, client: ClientId, _state: str, name: str, size: int
) -> dict[str, object]:
    try:
        held = (directory / "uploads" / name).stat().st_size
    except OSError:
        held = 0
    return {"client": client, "round": read(key).round, "held": held, "bytes": size}


def room(directory: Path) -> dict[str, int]:
    """Bytes of the journal, of blobs, of uploads, and that are free."""
    return {
        "journal": sum(_size(path) for path in directory.glob("journal.sqlite*")),
        "blobs": sum(_size(path) for path in directory.glob("blobs/??/*")),
        "uploads": sum(_size(path) for path in directory.glob("uploads/*")),
        "free": shutil.disk_usage(directory).free,
    }


def _size(path: Path) -> int:
    """Zero for a file that has just gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
