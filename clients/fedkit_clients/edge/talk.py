"""What a secure session says to a client and what it answers: in memory alone.

A masked vector never touches the client's disk; neither do the secrets under it. A client that is killed in a
session has lost them, and says so when it is asked for more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fedkit import wire
from fedkit.errors import WireError
from fedkit.messages import ClientId, Failure, Key
from fedkit.participant import Answer
from fedkit.secagg.messages import FromServer
from fedkit.secureclient import task_key

MOST = 1024
"""Messages without a verdict that are remembered: more than all sessions of all tasks that may wait have."""


class Talk:
    """What one client has been asked in sessions, and not yet brought to the aggregator."""

    def __init__(self, job: str, client: ClientId) -> None:
        self._job, self._client = job, client
        self._asked: dict[Key, FromServer] = {}
        self._answers: dict[Key, bytes] = {}
        self._known: dict[str, Key] = {}  # by the digests of their frames

    @property
    def busy(self) -> bool:
        """Whether something is to be answered, or an answer to be uploaded."""
        return bool(self._asked or self._answers)

    @property
    def open(self) -> bool:
        """Whether there is a session that was heard of and has no verdict yet."""
        return bool(self._known)

    def knows(self, sha256: str) -> bool:
        """Whether the message in this frame was heard, whatever became of it."""
        return sha256 in self._known

    def hear(self, sha256: str, frame: bytes) -> Key:
        """A message, and its key. WireError: it is none for this client."""
        message = wire.decode(frame)
        if not isinstance(message, FromServer) or not message.key.stage:
            raise WireError("not a message of a secure session")
        key = message.key
        if (key.job, key.client) != (self._job, self._client):
            raise WireError(f"a message for client {key.client!r} of job {key.job!r}")
        if len(self._known) >= MOST:
            raise WireError(f"{MOST} messages of sessions have no verdict")
        self._known[sha256] = key
        self._asked[key] = message
        return key

    def answer(self, of: Callable[[FromServer], Answer]) -> Iterator[Key]:
        """Answer what was asked, each once; the keys of what was answered."""
        for key in sorted(self._asked, key=lambda key: key.attempt):
            self._answers[key] = wire.encode(of(self._asked.pop(key)))
            yield key

    def answers(self) -> list[tuple[Key, bytes]]:
        """Frames that are to be uploaded."""
        return list(self._answers.items())

    def told(self, key: Key) -> None:
        """The aggregator has this answer, or does not want it any more."""
        self._answers.pop(key, None)

    def forget(self, task: Key) -> None:
        """The task of this key has its verdict: its sessions are over."""
        for held in (self._asked, self._answers):
            for key in [key for key in held if task_key(key) == task]:
                del held[key]
        self._known = {sha256: key for sha256, key in self._known.items() if task_key(key) != task}


def lost(key: Key) -> Failure:
    """The answer of a client that cannot answer."""
    return Failure(key, "refused", "", "session")
