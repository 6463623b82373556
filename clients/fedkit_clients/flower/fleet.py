"""A Flower fleet as fedkit sees it: nodes that get one message at a time and answer it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias

Call: TypeAlias = Literal["train", "query.hello"]
"""Types of messages: work, and the question who a node is."""


class Reply(NamedTuple):
    """What came back to the message of this id.

    error: the name of Flower's error code, then the class of the exception if there was one; empty where
    there is a blob.
    """

    message: str
    blob: bytes
    error: tuple[str, str] | None = None


class Fleet(Protocol):
    """What fedkit uses of Flower's Grid."""

    def nodes(self) -> Sequence[int]:
        """The ids of the nodes that can be reached now."""
        ...

    def push(self, node: int, call: Call, blob: bytes, ttl: float) -> str:
        """Send; the message's id, empty if it could not be sent. ttl: seconds for the way there and back."""
        ...

    def pull(self, messages: Sequence[str]) -> Sequence[Reply]:
        """Those replies that have come, each once. Does not wait."""
        ...


class NoFleet:
    """A fleet that has not been started."""

    def nodes(self) -> Sequence[int]:
        """None."""
        return ()

    def push(self, node: int, call: Call, blob: bytes, ttl: float) -> str:
        """Not sent."""
        return ""

    def pull(self, messages: Sequence[str]) -> Sequence[Reply]:
        """Nothing comes."""
        return ()
