"""Which version of the model each client holds, and what it costs to bring it up to date."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from fedkit.downlink import Release
from fedkit.messages import ClientId
from fedkit.tensors import State

KEPT = 40
"""Frames that the server keeps; a client that is further behind takes a whole frame or a snapshot."""

Relative: TypeAlias = Callable[[bytes, bytes], bytes | None]
"""(frame, the frame that a client holds) -> the frame told by that one, or None."""


class Downloads:
    """Bytes of model per client: nothing, frames, or a snapshot, whichever is shortest.

    snapshot: bytes of a whole model. Unless `plain`, every client makes version 1 from the seed. relative:
    how a frame from the first version is told to one who holds another.
    """

    def __init__(self, snapshot: int, plain: bool, relative: Relative) -> None:
        self._snapshot = snapshot
        self._known = 0 if plain else 1
        self._relative = relative
        self._frames: dict[int, tuple[int, int]] = {}  # version -> (its base, bytes of its frame)
        self._whole: dict[int, bytes] = {}  # version -> its frame, where it leads from the first version
        self._held: dict[ClientId, int] = {}
        self._told: dict[tuple[int, int], int] = {}  # (version, held one) -> bytes of a frame told by a frame

    def publish(self, release: Release) -> None:
        """Remember the frame that leads to a version; idempotent."""
        if release.frame is not None and release.version not in self._frames:
            self._frames[release.version] = (release.base, len(release.frame))
            if release.base == 1:
                self._whole[release.version] = release.frame
            self._frames.pop(release.version - KEPT, None)
            self._whole.pop(release.version - KEPT, None)
            self._told.clear()

    def saved(self, client: ClientId, version: int) -> int:
        """Bytes that the client spares of a whole model; it then holds `version`."""
        held = self._held.get(client, self._known)
        self._held[client] = version
        size, at = 0, version
        while at not in (held, self._known, 0):
            base, step = self._frames.get(at, (0, self._snapshot))
            size, at = size + step, base
        if 0 < at == self._known < held < version:
            size = min(size, self._told_by(version, held))
        return max(0, self._snapshot - size) if at else 0

    def _told_by(self, version: int, held: int) -> int:
        """Bytes of the frame to `version` told by that to `held`; a whole model's where there is no way."""
        key = (version, held)
        if key not in self._told:
            frames = [self._whole[one] for one in key if one in self._whole]
            told = self._relative(frames[0], frames[1]) if len(frames) == 2 else None
            self._told[key] = len(told) if told is not None else self._snapshot
        return self._told[key]

    def save(self) -> State:
        """What `load` needs to continue."""
        about = [[[version, *frame] for version, frame in self._frames.items()], self._held]
        frames = {str(version): np.frombuffer(frame, np.uint8) for version, frame in self._whole.items()}
        return {"about": {"json": np.frombuffer(json.dumps(about).encode(), np.uint8)}, "frames": frames}

    def load(self, state: State) -> None:
        """Continue from `save`."""
        about, held = json.loads(state["about"]["json"].tobytes())
        self._frames = {version: (base, size) for version, base, size in about}
        self._whole = {int(version): frame.tobytes() for version, frame in state.get("frames", {}).items()}
        self._held = dict(held)
        self._told.clear()
