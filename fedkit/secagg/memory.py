"""What a client remembers from one session to the next, so that no second sum is opened with it."""

from __future__ import annotations

from typing import Protocol

from fedkit.messages import Kind


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
    """Sessions for as long as the process lives."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._joined: dict[tuple[str, int, Kind], int] = {}
        self._last: dict[tuple[str, Kind], int] = {}
        self._measured: set[tuple[str, bytes]] = set()

    def seen(self, sid: bytes) -> bool:
        """Whether this session was asked about before; from now on it was."""
        known = sid in self._seen
        self._seen.add(sid)
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
        if kind == "evaluate":
            self._measured.add((job, model))
