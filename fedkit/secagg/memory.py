"""What a client remembers from one session to the next, so that no second sum is opened with it."""

from __future__ import annotations

from typing import Protocol

from fedkit.messages import Kind


class Sessions(Protocol):
    """Sessions a client has been in. It must outlive the sessions of a round."""

    def seen(self, sid: bytes) -> bool:
        """Whether this session was asked about before; from now on it was."""
        ...

    def signed(self, job: str, round: int, kind: Kind) -> bool:
        """Whether the client has helped to open a sum of this round."""
        ...

    def sign(self, job: str, round: int, kind: Kind) -> None:
        """It does now."""


class MemorySessions:
    """Sessions for as long as the process lives."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._signed: set[tuple[str, int, Kind]] = set()

    def seen(self, sid: bytes) -> bool:
        """Whether this session was asked about before; from now on it was."""
        known = sid in self._seen
        self._seen.add(sid)
        return known

    def signed(self, job: str, round: int, kind: Kind) -> bool:
        """Whether the client has helped to open a sum of this round."""
        return (job, round, kind) in self._signed

    def sign(self, job: str, round: int, kind: Kind) -> None:
        """It does now."""
        self._signed.add((job, round, kind))
