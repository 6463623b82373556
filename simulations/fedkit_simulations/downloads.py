"""Which version of the model each client holds, and what it costs to bring it up to date."""

from __future__ import annotations

from typing import Any

from fedkit.downlink import Release
from fedkit.messages import ClientId

KEPT = 40
"""Frames that the server keeps; a client that is further behind takes a snapshot."""


class Downloads:
    """Bytes of model per client: nothing, a chain of frames, or a snapshot, whichever is shortest.

    snapshot: bytes of a whole model. Unless `plain`, every client makes version 1 from the seed.
    """

    def __init__(self, snapshot: int, plain: bool) -> None:
        self._snapshot = snapshot
        self._known = 0 if plain else 1
        self._frames: dict[int, tuple[int, int]] = {}  # version -> (its base, bytes of its frame)
        self._held: dict[ClientId, int] = {}

    def publish(self, release: Release) -> None:
        """Remember the frame that leads to a version; idempotent."""
        if release.frame is not None and release.version not in self._frames:
            self._frames[release.version] = (release.base, len(release.frame))
            self._frames.pop(release.version - KEPT, None)

    def saved(self, client: ClientId, version: int) -> int:
        """Bytes that the client spares of a whole model; it then holds `version`."""
        held = self._held.get(client, self._known)
        self._held[client] = version
        size, at = 0, version
        while at not in (held, self._known, 0):
            base, step = self._frames.get(at, (0, self._snapshot))
            size, at = size + step, base
        return max(0, self._snapshot - size) if at else 0

    def save(self) -> list[Any]:
        """Plain data for `load`."""
        return [[[version, *frame] for version, frame in self._frames.items()], self._held]

    def load(self, saved: list[Any]) -> None:
        """Continue from `save`."""
        frames, held = saved
        self._frames = {version: (base, size) for version, base, size in frames}
        self._held = dict(held)
