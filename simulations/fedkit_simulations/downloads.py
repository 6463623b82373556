"""Which version of the model each client holds, and what it costs to bring it up to date."""

from __future__ import annotations

from typing import Any

from fedkit.messages import ClientId

KEPT = 40
"""Frames that the server keeps; a client that is further behind takes a snapshot."""


class Downloads:
    """Bytes of model per client: nothing, a chain of frames, or a snapshot, whichever is shortest."""

    def __init__(self, snapshot: int) -> None:
        self._snapshot = snapshot
        self._frames: dict[int, int] = {}  # version -> bytes of the frame that leads to it
        self._held: dict[ClientId, int] = {}

    def publish(self, version: int, frame: bytes | None) -> None:
        """Remember the frame that leads to `version`; idempotent."""
        if frame is None or version in self._frames:
            return
        self._frames[version] = len(frame)
        self._frames.pop(version - KEPT, None)

    def saved(self, client: ClientId, version: int) -> int:
        """Bytes that the client spares of a whole model; it then holds `version`."""
        held = self._held.get(client)
        self._held[client] = version
        if held is None or held > version:
            return 0
        chain = [self._frames.get(v) for v in range(held + 1, version + 1)]
        sizes = [size for size in chain if size is not None]
        return max(0, self._snapshot - sum(sizes)) if len(sizes) == len(chain) else 0

    def save(self) -> list[Any]:
        """Plain data for `load`."""
        return [list(self._frames.items()), self._held]

    def load(self, saved: list[Any]) -> None:
        """Continue from `save`."""
        frames, held = saved
        self._frames, self._held = dict(frames), dict(held)
