"""What a client remembers between rounds, by client and stream.

Streams are "strategy" (control variates ...), "personal" (tensors that do not travel) and, with
error feedback, "residual". In simulation one store holds every client; on a device it is the disk.
"""

from __future__ import annotations

from typing import Protocol

from fedkit.messages import ClientId
from fedkit.tensors import Memory, State


class ClientStore(Protocol):
    """Committed memory only: an update's memory is put here when its update was counted."""

    def get(self, client: ClientId, stream: str) -> Memory:
        """The memory of that stream; empty before the first `put`."""
        ...

    def put(self, client: ClientId, stream: str, memory: Memory) -> None:
        """Replace the memory of that stream."""
        ...

    def save(self) -> State:
        """What `load` needs: the contents, or for a store on disk an index of it."""
        ...

    def load(self, state: State) -> None:
        """Continue from `save`, forgetting whatever was put since."""
        ...
