"""Tasks on their way: sent, leased to their client, acknowledged, settled, and the verdict told.

Messages of secure sessions go the same way, with less ado: nobody acknowledges one, so it is offered in every
answer until its reply has come; it gets no verdict, and is gone once its stage is over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from fedkit import wire
from fedkit.aggregator.blobs import Blobs
from fedkit.aggregator.journal import Journal
from fedkit.federation import Request, Standing, Verdict
from fedkit.messages import ClientId, Key, Task

LEASE = 60.0
"""Seconds until a task is offered again that its client has not acknowledged."""
MOST = 64
"""Tasks or verdicts in one answer."""


class Sort(StrEnum):
    """What a row of the table `tasks` is."""

    task = "task"
    announcement = "announcement"
    """A task of secure sessions: their messages answer it; a reply of its own is a failure."""
    message = "message"
    """What the server says in a session."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A task that was handed to its client, to be read from the blob `frame`; version 0: a message."""

    id: int
    frame: str
    bytes: int
    version: int


def told(key: Key) -> str:
    """A key as the journal names it: JSON."""
    return json.dumps(wire.key_row(key), separators=(",", ":"))


def read(text: str) -> Key:
    """The key that `told` wrote."""
    return wire.read_key(json.loads(text))


class Leases:
    """The tasks of a journal."""

    def __init__(self, journal: Journal, blobs: Blobs) -> None:
        self._journal, self._blobs = journal, blobs

    def send(self, requests: Iterable[Request]) -> None:
        """Write tasks and messages down; those that are known already stay as they are. Tasks are durable."""
        rows = [self._row(request) for request in requests]
        with self._journal.transaction(durable=any(row[-1] != Sort.message for row in rows)) as db:
            db.executemany(
                "INSERT OR IGNORE INTO tasks (key, client, version, frame, bytes, expires, sort)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
        self._journal.tell({row[1] for row in rows})

    def abandon_sessions(self) -> None:
        """Forget the messages of sessions: their secrets went with the process that had sent them."""
        with self._journal.transaction() as db:
            db.execute("DELETE FROM tasks WHERE sort = ?", (Sort.message,))

    def news(
        self, client: ClientId, lease: float = LEASE
    ) -> tuple[Sequence[tuple[Key, Verdict]], Sequence[Lease]]:
        """What became of its tasks, unless it has acknowledged that; and tasks, which are now leased to it.

        Both as of one instant: no task is offered before the verdicts that came before it, on which the
        client's memory depends.
        """
        now = self._journal.now()
        with self._journal.transaction() as db:
            settled = db.execute(
                "SELECT key, verdict FROM tasks WHERE client = ? AND verdict IS NOT NULL ORDER BY id LIMIT ?",
                (client, MOST),
            ).fetchall()
            rows = db.execute(
                "SELECT id, frame, bytes, version FROM tasks"
                " WHERE client = ? AND verdict IS NULL AND acked IS NULL"
                " AND id NOT IN (SELECT task FROM replies)"
                " AND (sort = ? OR version IN (SELECT version FROM releases))"
                " AND expires > ? AND (leased IS NULL OR leased <= ? OR sort = ?) ORDER BY id LIMIT ?",
                (client, Sort.message, now, now - lease, Sort.message, MOST if len(settled) < MOST else 0),
            ).fetchall()
            db.executemany("UPDATE tasks SET leased = ? WHERE id = ?", [(now, row[0]) for row in rows])
        return [(read(key), Verdict(word)) for key, word in settled], [Lease(*row) for row in rows]

    def reopen(self, client: ClientId) -> None:
        """The client may have lost what it had taken: tasks of it without a reply are offered again."""
        with self._journal.transaction() as db:
            db.execute(
                "UPDATE tasks SET acked = NULL, leased = 0 WHERE client = ? AND verdict IS NULL"
                " AND acked IS NOT NULL AND id NOT IN (SELECT task FROM replies)",
                (client,),
            )

    def acknowledge(self, client: ClientId, tasks: Iterable[int], settled: Iterable[Key]) -> None:
        """The client has these tasks, and has acted on these verdicts; anything else is passed over."""
        now = self._journal.now()
        with self._journal.transaction() as db:
            db.executemany(
                "UPDATE tasks SET acked = ? WHERE id = ? AND client = ?"
                " AND leased IS NOT NULL AND acked IS NULL",
                [(now, task, client) for task in tasks],
            )
            db.executemany(
                "DELETE FROM tasks WHERE key = ? AND client = ? AND verdict IS NOT NULL",
                [(told(key), client) for key in settled],
            )

    def settle(self, verdicts: Mapping[Key, Verdict]) -> None:
        """Close tasks, durably; their clients will be told. A task that was never leased is forgotten, and
        so are messages.
        """
        rows = [(str(verdict), told(key)) for key, verdict in verdicts.items()]
        with self._journal.transaction(durable=not all(key.stage for key in verdicts)) as db:
            db.executemany(
                "DELETE FROM tasks WHERE (leased IS NULL OR sort = ?) AND key = ?",
                [(Sort.message, name) for _, name in rows],
            )
            db.executemany("UPDATE tasks SET verdict = ? WHERE key = ? AND verdict IS NULL", rows)
            db.execute("DELETE FROM uploads WHERE task IN (SELECT id FROM tasks WHERE verdict IS NOT NULL)")
        self._journal.tell({key.client for key in verdicts if not key.stage})

    def open(self, turn: int) -> Iterator[tuple[Key, Standing]]:
        """Tasks without a verdict whose reply, if there is one, came after that of `turn`; how they stand."""
        now = self._journal.now()
        with self._journal.transaction() as db:
            rows = db.execute(
                "SELECT key, client, leased, acked, name, turn FROM tasks"
                " LEFT JOIN uploads ON uploads.task = id LEFT JOIN replies ON replies.task = id"
                " WHERE verdict IS NULL AND sort != ? AND (turn IS NULL OR turn > ?)",
                (Sort.announcement, turn),
            ).fetchall()
        for key, client, leased, acked, uploading, came in rows:
            seen = self._journal.seen(client)
            alive = came is not None or (leased is not None and seen > leased)
            ago = f"last heard of {now - seen:.0f} s ago" if seen else "never heard of"
            yield read(key), Standing(alive, f"{_state(leased, acked, uploading, came)}, {ago}")

    def waiting(self) -> bool:
        """Whether a reply is due: a task or a message has neither reply nor verdict."""
        with self._journal.transaction() as db:
            found = db.execute(
                "SELECT 1 FROM tasks WHERE verdict IS NULL AND sort != ?"
                " AND id NOT IN (SELECT task FROM replies) LIMIT 1",
                (Sort.announcement,),
            ).fetchone()
        return found is not None

    def over(self) -> float | None:
        """When the secure round that is under way is over; None: there is none."""
        with self._journal.transaction() as db:
            found: float | None = db.execute(
                "SELECT max(expires) FROM tasks WHERE verdict IS NULL AND sort = ?", (Sort.announcement,)
            ).fetchone()[0]
        return found

    def busy(self) -> set[ClientId]:
        """Clients that have a task to do."""
        with self._journal.transaction() as db:
            rows = db.execute(
                "SELECT DISTINCT client FROM tasks WHERE leased IS NOT NULL AND verdict IS NULL"
            )
            return {client for (client,) in rows.fetchall()}

    def _row(self, request: Request) -> tuple[str, ClientId, int, str, int, float, Sort]:
        """The row of a request, its frame a blob by then."""
        key, sort = request.key, _sort(request)
        if isinstance(request, Task):
            frame, version = wire.encode(replace(request, model={})), request.version
            expires = request.expires
        else:
            frame, version, expires = wire.encode(request), 0, math.inf  # its stage ends it
        digest = self._blobs.put(frame)
        return told(key), key.client, version, digest, len(frame), expires, sort

    def untold(self) -> int:
        """Verdicts that no client has acknowledged yet."""
        with self._journal.transaction() as db:
            return int(db.execute("SELECT count(*) FROM tasks WHERE verdict IS NOT NULL").fetchone()[0])


def _sort(request: Request) -> Sort:
    if not isinstance(request, Task):
        return Sort.message
    return Sort.announcement if request.session else Sort.task


def _state(leased: float | None, acked: float | None, uploading: str | None, came: int | None) -> str:
    """How far a task is, in words."""
    if came is not None:
        return "its result has come"
    if uploading is not None:
        return "its result is coming in"
    if acked is not None:
        return "it has its task"
    return "it was offered its task" if leased is not None else "it never asked for its task"
