"""What a client remembers of secure sessions, on its disk: no second sum is opened with it, whatever happens.

One line of JSON for each thing that is to be remembered, flushed before the client says anything that
depends on it:

    ["seen", SID]                            ["joined", JOB, ROUND, KIND]
    ["signed", JOB, ROUND, KIND, MODEL]      SID and SHA-256 of the model in hex

The file outlives jobs and runs: a job that is run once more trains from the same models with the same seeds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias, cast

from fedkit import fields
from fedkit.cores import mask_threads
from fedkit.errors import CheckpointError, WireError
from fedkit.messages import Kind
from fedkit.runfolder import sync
from fedkit.secagg.identity import RANDOM, Floors
from fedkit.secagg.memory import MemorySessions
from fedkit.secureclient import Credentials
from fedkit_clients.edge.files import append_line, write_file
from fedkit_clients.edge.membership import Membership

NAME = "sessions"
LINES = 4096
"""Lines beyond which a file is made shorter when it is opened; while it is open, twice as many."""
SEEN = 1024
"""Sessions that are then remembered by their ids; older ones are of rounds that are over."""

Row: TypeAlias = tuple[str | int, ...]


class DiskSessions:
    """`Sessions` in the folder of a client. CheckpointError: the file is damaged."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._open()

    def seen(self, sid: bytes) -> bool:
        """Whether this session was asked about before; from now on it was."""
        known = self._held.seen(sid)
        if not known:
            self._write(("seen", sid.hex()))
        return known

    def joined(self, job: str, round: int, kind: Kind) -> int:
        """How many sessions of this round the client has joined; from now on one more."""
        count = self._held.joined(job, round, kind)
        self._write(("joined", job, round, kind))
        return count

    def signed(self, job: str, round: int, kind: Kind, model: bytes) -> bool:
        """Whether a sum of this round would be a second one."""
        return self._held.signed(job, round, kind, model)

    def sign(self, job: str, round: int, kind: Kind, model: bytes) -> None:
        """The client helps to open a sum of this round."""
        self._held.sign(job, round, kind, model)
        self._write(("signed", job, round, kind, model.hex()))

    def _open(self) -> None:
        """What the file says, which is made shorter if it is long."""
        self._held = MemorySessions()
        rows = _rows(self._path)
        if len(rows) > LINES:
            rows = _shorter(rows)
            write_file(self._path, *map(_line, rows))
        for row in rows:
            self._recall(row)
        self._lines, self._most = len(rows), 2 * max(LINES, len(rows))

    def _write(self, row: Row) -> None:
        fresh = not self._path.exists()
        append_line(self._path, _line(row), lasting=True)
        if fresh:
            sync(self._path.parent)
        self._lines += 1
        if self._lines > self._most:
            self._open()

    def _recall(self, row: Row) -> None:
        word, *rest = row
        if word == "seen":
            self._held.seen(bytes.fromhex(str(rest[0])))
            return
        job, round, kind = str(rest[0]), int(rest[1]), cast("Kind", rest[2])
        if word == "joined":
            self._held.joined(job, round, kind)
        else:
            self._held.sign(job, round, kind, bytes.fromhex(str(rest[3])))


def vouch(membership: Membership, directory: Path, floors: Floors) -> Credentials:
    """Who a client is in secure sessions, and what it insists on.

    Its secrets are drawn afresh from the system and stay in memory; what it remembers of sessions is in
    `directory`.
    """
    identity, sessions = membership.identity, lru_cache(maxsize=1)(lambda _: DiskSessions(directory))
    return Credentials(
        membership.trust,
        floors,
        lambda _: identity,
        lambda _: RANDOM,
        sessions,
        threads=mask_threads(),
    )


def _line(row: Row) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"


def _rows(path: Path) -> list[Row]:
    """The lines of a file; one that a crash has cut short was of something that was never said."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    try:
        return [_row(line) for line in whole.splitlines()]
    except (WireError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}): without it this client could be led to open a sum twice; put it "
            "back from a copy, or remove it if the aggregator's next job has another seed"
        ) from error


def _row(line: bytes) -> Row:
    word, *rest = fields.items(fields.parse(line, "line"), "line")
    if word == "seen" and len(rest) == 1:
        return "seen", bytes.fromhex(fields.text(rest[0], "sid")).hex()
    if word not in ("joined", "signed") or len(rest) != (3 if word == "joined" else 4):
        raise WireError("a line of another kind")
    kind = fields.text(rest[2], "kind")
    if kind not in ("train", "evaluate"):
        raise WireError("a line of another kind of round")
    head = (str(word), fields.text(rest[0], "job"), fields.integer(rest[1], "round"), kind)
    return head if word == "joined" else (*head, bytes.fromhex(fields.text(rest[3], "model")).hex())


def _shorter(rows: Iterable[Row]) -> list[Row]:
    """What still matters: which rounds were signed last, which models were measured, the newest sessions."""
    last: dict[tuple[str | int, ...], Row] = {}
    measured, joined, seen = list[Row](), list[Row](), list[Row]()
    for row in rows:
        if row[0] == "signed":
            of = (row[1], row[3])
            last[of] = max(row, last.get(of, row), key=lambda one: int(one[2]))
            measured += [row] * (row[3] == "evaluate")
        else:
            (joined if row[0] == "joined" else seen).append(row)
    ended = {of: int(row[2]) for of, row in last.items()}
    going = [row for row in joined if int(row[2]) > ended.get((row[1], row[3]), -1)]
    return [*seen[-SEEN:], *going, *measured, *last.values()]
