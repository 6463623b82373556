"""What a client remembers from one session to the next, so that no second sum is opened with it."""

from __future__ import annotations

import json
from typing import Protocol

from fedkit import fields
from fedkit.errors import WireError
from fedkit.messages import Kind

SEEN = 1024


class Sessions(Protocol):
    """Sessions a client has been in. It must outlive the sessions of a job."""

    def seen(self, sid: bytes) -> bool:
        """Whether this session was asked about before; from now on it was."""
        ...

    def joined(self, job: str, round: int, kind: Kind) -> int:
        """How many sessions of this round the client has joined; from now on one more."""
        ...

    def signed(self, job: str, round: int, kind: Kind, model: bytes) -> bool:
        """Whether a sum of this round would be a second one: the client has helped to open one of this round
        or of a later one, or has measured this model (SHA-256) before.
        """
        ...

    def sign(self, job: str, round: int, kind: Kind, model: bytes) -> None:
        """The client helps to open a sum of this round."""


class MemorySessions:
    """Sessions for as long as the process lives.

    Of the sids the last SEEN are kept: a client takes up sessions of its present round alone, no more than
    the job's retries. How many it joined of a round that was signed is forgotten: it joins none any more.
    """

    def __init__(self) -> None:
        self._seen: dict[bytes, None] = {}
        self._joined: dict[tuple[str, int, Kind], int] = {}
        self._last: dict[tuple[str, Kind], int] = {}
        self._measured: set[tuple[str, bytes]] = set()

    def seen(self, sid: bytes) -> bool:
        """Whether this session was asked about before; from now on it was."""
        known = sid in self._seen
        self._seen[sid] = None
        if len(self._seen) > SEEN:
            del self._seen[next(iter(self._seen))]
        return known

    def joined(self, job: str, round: int, kind: Kind) -> int:
        """How many sessions of this round the client has joined; from now on one more."""
        count = self._joined.get((job, round, kind), 0)
        self._joined[job, round, kind] = count + 1
        return count

    def signed(self, job: str, round: int, kind: Kind, model: bytes) -> bool:
        """Whether a sum of this round would be a second one."""
        again = kind == "evaluate" and (job, model) in self._measured
        return again or round <= self._last.get((job, kind), -1)

    def sign(self, job: str, round: int, kind: Kind, model: bytes) -> None:
        """The client helps to open a sum of this round."""
        self._last[job, kind] = max(round, self._last.get((job, kind), -1))
        self._joined = {of: n for of, n in self._joined.items() if of[::2] != (job, kind) or of[1] > round}
        if kind == "evaluate":
            self._measured.add((job, model))

    def save(self) -> bytes:
        """What `load` continues from. Nothing in it is secret."""
        content = {
            "joined": [[*name, count] for name, count in sorted(self._joined.items())],
            "last": [[*name, round] for name, round in sorted(self._last.items())],
            "measured": sorted([job, model.hex()] for job, model in self._measured),
            "seen": [sid.hex() for sid in self._seen],
        }
        return json.dumps(content).encode("ascii")

    def load(self, data: bytes) -> None:
        """Continue from `save`. WireError: it is not that."""
        top = fields.mapping(fields.parse(data, "sessions"), "sessions")
        fields.exactly(top, "joined", "last", "measured", "seen")
        rows = {name: fields.items(top[name], name) for name in top}
        joined = [fields.items(row, "joined", 4) for row in rows["joined"]]
        last = [fields.items(row, "last", 3) for row in rows["last"]]
        measured = [fields.items(row, "measured", 2) for row in rows["measured"]]
        self._joined = {
            (fields.text(job, "job"), fields.integer(round, "round"), _kind(kind)): fields.integer(count, "n")
            for job, round, kind, count in joined
        }
        self._last = {(fields.text(j, "job"), _kind(k)): fields.integer(r, "round") for j, k, r in last}
        self._measured = {(fields.text(job, "job"), _digest(model)) for job, model in measured}
        self._seen = dict.fromkeys(_digest(sid) for sid in rows["seen"])


def _kind(value: object) -> Kind:
    if value not in ("train", "evaluate"):
        raise WireError("sessions: a kind that is neither train nor evaluate")
    return "train" if value == "train" else "evaluate"


def _digest(value: object) -> bytes:
    try:
        return bytes.fromhex(fields.text(value, "hash"))
    except ValueError:
        raise WireError("sessions: a hash that is not hexadecimal") from None
