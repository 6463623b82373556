"""Versions of the model that clients hold: with a lossy codec they follow the server's at a distance.

The server keeps what clients hold, sends the encoded difference and adds what its decoding gives, so
the error of one round is part of the next difference (server-side error feedback).
"""

from __future__ import annotations

import numpy as np

from fedkit.codecs import Codec, CodecContext
from fedkit.codecs.none import Plain
from fedkit.seeds import derive
from fedkit.tensors import Flat, Layout, State, Tensors, add, subtract


class Downlink:
    """One run's models as clients see them; versions count from 1, one for each `publish`."""

    def __init__(self, codec: Codec, layout: Layout, seed: int = 0) -> None:
        self._codec, self._layout, self._seed = codec, layout, seed
        self.version = 0
        self._held: Flat | None = None

    def publish(self, model: Tensors) -> tuple[int, Tensors]:
        """The next version and the model that clients will hold; the first is a snapshot.

        Raises LayoutError if `model` does not have the layout.
        """
        target = self._layout.view(self._layout.flatten(model))
        self.version += 1
        if self._held is None or isinstance(self._codec, Plain):
            self._held = target
        else:
            self._held = self._follow(self._held, target)
        return self.version, self._held

    def _follow(self, held: Flat, target: Flat) -> Flat:
        seed = derive(self._seed, "downlink", self.version)
        context = CodecContext(seed=seed, shared_seed=seed)
        payload = self._codec.encode(subtract(target, held), self._layout, context)
        moved = add(held, self._codec.decode(payload, self._layout, context))
        return self._layout.view(self._layout.flatten(moved))

    def save(self) -> State:
        """The version and, unless the codec is `none`, the model that clients hold."""
        state: dict[str, Tensors] = {"version": {"version": np.array([self.version], np.int64)}}
        if self._held is not None and not isinstance(self._codec, Plain):
            state["held"] = self._held
        return state

    def load(self, state: State) -> None:
        """Continue from `save`."""
        self.version = int(state["version"]["version"][0])
        held = state.get("held")
        self._held = self._layout.view(self._layout.flatten(held)) if held is not None else None
