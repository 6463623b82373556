"""Versions of the model that clients hold, and the frames that lead from one to the next.

With a lossy codec clients follow the server's model at a distance. Version 1 is the initial model,
which every client makes from the job's seed. One encoding a round serves every client:

    base "last"    a frame leads from version - 1. The server keeps what clients hold and sends the
                   encoded difference, so the error of one round is part of the next difference
                   (server-side error feedback). Clients that come often need a short chain.
    base "first"   a frame leads from version 1. Its error does not add up and any client needs one
                   frame only, but that has to hold the whole way from the initial model. Most of that
                   way is known to who holds an earlier frame: it is told what changed since.

A frame is the BLAKE2b-128 of the resulting model, then the payload of the codec, or what tells it to
one who holds the payload of another frame. A client that arrives at another model than the server
drops the frame and asks for a snapshot.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from fedkit.codecs import Codec, CodecContext
from fedkit.codecs.none import Plain
from fedkit.coding import decoded, odd_payload
from fedkit.errors import LayoutError, RunFailed, WireError
from fedkit.seeds import derive
from fedkit.tensors import Flat, Layout, State, Tensors, add, sealed_copy, subtract
from fedkit.usercode import called

Base: TypeAlias = Literal["last", "first"]
DIGEST = 16


class Release(NamedTuple):
    """One version of the model as clients hold it.

    frame: leads there from version `base`; None where there is no such way (the first, or no codec).
    """

    version: int
    model: Tensors
    frame: bytes | None = None
    base: int = 0


def relative(codec: Codec, layout: Layout, frame: bytes, held: bytes) -> bytes | None:
    """The frame told to one who holds another from the same base; None where the codec has no way to."""
    told = codec.relative(frame[DIGEST:], held[DIGEST:], layout)
    return None if told is None else frame[:DIGEST] + told


class Downlink:
    """One run's models as clients see them; versions count from 1, one for each `publish`."""

    def __init__(self, codec: Codec, layout: Layout, seed: int = 0, base: Base = "last") -> None:
        self._codec, self._layout, self._seed, self._base = codec, layout, seed, base
        self.version = 0
        self._held: Flat | None = None
        self._from: Flat | None = None

    def publish(self, model: Tensors) -> Release:
        """The next version; the first is a snapshot.

        LayoutError if `model` does not fit or cannot be encoded; RunFailed, naming the codec, on anything
        else that it raises or returns. Nothing has changed then.
        """
        target = self._kept(model)
        if self._from is None or isinstance(self._codec, Plain):
            self.version, self._held, self._from = self.version + 1, target, target
            return Release(self.version, target)
        payload, moved = self._encoded(subtract(target, self._from), self._from)
        self.version, self._held = self.version + 1, moved
        if self._base == "last":
            self._from = moved
        base = self.version - 1 if self._base == "last" else 1
        return Release(self.version, moved, _digest(moved) + payload, base)

    def _kept(self, model: Tensors) -> Flat:
        """The model as nobody can change it: a copy, unless it refuses assignment already."""
        if isinstance(model, Flat) and model.layout == self._layout and not model.vector.flags.writeable:
            return model
        return sealed_copy(model, self._layout)

    def _encoded(self, step: Tensors, start: Flat) -> tuple[bytes, Flat]:
        """The payload for the next version, and where it leads from `start`."""
        context, name = _context(self._seed, self.version + 1), f"codec.down {self._codec.id!r}"
        with called(name, RunFailed, (LayoutError,)):
            payload = self._codec.encode(step, self._layout, context)
            why = odd_payload(self._codec, self._layout, payload)
        if why:
            raise RunFailed(f"{name} {why}")
        try:
            return payload, _moved(self._codec, self._layout, start, payload, context)
        except WireError as error:
            raise RunFailed(f"{name} does not decode what it has encoded: {error}") from error

    def save(self) -> State:
        """The version and, unless the codec is `none`, the models that clients hold and start from."""
        state: dict[str, Tensors] = {"version": {"version": np.array([self.version], np.int64)}}
        if self._held is not None and not isinstance(self._codec, Plain):
            state["held"] = self._held
        if self._from is not None and not isinstance(self._codec, Plain):
            state["from"] = self._from
        return state

    def load(self, state: State) -> None:
        """Continue from `save`."""
        self.version = int(state["version"]["version"][0])
        held, start = state.get("held"), state.get("from")
        self._held = self._layout.view(self._layout.flatten(held)) if held is not None else None
        self._from = self._layout.view(self._layout.flatten(start)) if start is not None else None

    def current(self, model: Tensors) -> Release:
        """The version that clients hold, without its frame; `model` is the server's own."""
        held = self._held if self._held is not None else self._layout.view(self._layout.flatten(model))
        return Release(self.version, held)


class Follower:
    """A client's side: the version it holds, moved by snapshots and frames."""

    def __init__(self, codec: Codec, layout: Layout, seed: int = 0) -> None:
        self._codec, self._layout, self._seed = codec, layout, seed
        self.version = 0
        self.model: Tensors = {}
        self._first: Tensors = {}
        self._payload = b""

    def snapshot(self, version: int, model: Tensors) -> None:
        """Take a whole model. LayoutError if it does not fit."""
        self.version, self.model = version, self._layout.view(self._layout.flatten(model))
        self._payload = b""
        if version == 1:
            self._first = self.model

    def follow(self, version: int, base: int, frame: bytes, told_by: int = 0) -> None:
        """Apply the frame that leads from version `base` to `version`; one that is not newer is ignored.

        told_by: the version by whose frame it is told; 0 where it is told whole. WireError, with nothing
        changed, if the client does not hold the base or that version, or does not arrive at the server's
        model: it then needs a snapshot.
        """
        if version <= self.version:
            return
        if not isinstance(frame, bytes):
            raise WireError(f"a frame is bytes, not {type(frame).__name__}")
        start = self.model if base == self.version else self._first if base == 1 else {}
        if not start or (told_by and (told_by != self.version or not self._payload)):
            raise WireError(
                f"frame from version {told_by or base} to {version}, but version {self.version} is held: "
                "ask a snapshot"
            )
        payload = frame[DIGEST:]
        if told_by:
            payload = self._codec.absolute(payload, self._payload, self._layout)
        context = _context(self._seed, version)
        held = self._layout.view(self._layout.flatten(start))
        moved = _moved(self._codec, self._layout, held, payload, context)
        if not hmac.compare_digest(_digest(moved), frame[:DIGEST]):
            raise WireError(f"frame to version {version} leads to another model: ask a snapshot")
        self.version, self.model, self._payload = version, moved, payload


def _context(seed: int, version: int) -> CodecContext:
    known = derive(seed, "downlink", version)
    return CodecContext(seed=known, shared_seed=known)


def _moved(codec: Codec, layout: Layout, held: Flat, payload: bytes, context: CodecContext) -> Flat:
    moved = add(held, decoded(codec, payload, layout, context))
    return layout.view(layout.flatten(moved))


def _digest(model: Flat) -> bytes:
    data = model.vector.astype(model.vector.dtype.newbyteorder("<"), copy=False).tobytes()
    return hashlib.blake2b(data, digest_size=DIGEST).digest()
