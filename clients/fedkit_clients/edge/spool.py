"""What a client must not lose, on disk: tasks, finished updates, what it remembers.

    ID/tasks/FRAME         digest of the model (32 bytes), then the task's frame without it
    ID/held/FRAME          digest of the model, memory that waits for a verdict, the task's frame: one that
                           secure sessions answer, of which nothing else is on the disk
    ID/finished/FRAME      memory that waits for a verdict, then the frame of the reply: to be uploaded
    ID/uploaded/FRAME      the same, acknowledged by the server
    ID/memory/             committed memory; memory.bin says which of its files count
    ID/models/, ID/parts/  models, and downloads that are not whole yet

ID names job and run (root.py), FRAME is the SHA-256 of the task's frame. Every step is one rename, so a
process killed at any instant leaves one state or the next. A power cut may take a task that was not
acknowledged, which is then offered again; what was promised, or finished, is flushed before that is said.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkit import fields, packing, wire
from fedkit.clientstore import MemoryStore
from fedkit.errors import CheckpointError, WireError
from fedkit.messages import Key, Task
from fedkit.runfolder import sync
from fedkit.tensors import Memory, State
from fedkit_clients.edge.files import remove, write_file
from fedkit_clients.edge.offers import Blob

log = logging.getLogger("fedkit.edge")

Streams: TypeAlias = Mapping[str, Memory]
WAITING = 32
"""Tasks that may wait here, with their models: an aggregator must not fill the disk."""
REMEMBERED = 256
"""Settled tasks that are known again if they are offered once more."""
CACHE = 1 << 24
"""Bytes of client memory that are kept in RAM beside the disk."""
_LENGTH = 8
_DIGEST = 32
_STAGES = ("uploaded", "finished", "held", "tasks")
_NAME = re.compile(r"[0-9a-f]{64}")


class Spool:
    """One job of one client. `settled` are the last tasks with a verdict, by the names of their frames."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in (*_STAGES, "memory", "models", "parts"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for path in folder.rglob("*.tmp"):
            remove(path)
        self.store = MemoryStore(folder / "memory", CACHE)
        self.settled: list[str] = []
        self._fresh = set[str]()
        self._last = "", b""  # the reply that was finished last, until it is asked for
        self._keys: dict[str, Key] = {}
        self._load()

    def knows(self, frame: str) -> bool:
        """Whether the task with this frame has been taken already, whatever became of it."""
        return frame in self.settled or frame in self._keys

    def take(self, name: str, model: str, frame: bytes) -> None:
        """A task, and the digest of its model. Another frame for a task that is here is passed over."""
        key = read_task(frame).key
        if key not in self._keys.values():
            write_file(self._path("tasks", name), bytes.fromhex(model), frame, lasting=False)
            self._keys[name] = key

    def secure(self) -> list[str]:
        """Flush the tasks that wait; the digests of their models, and of those that sessions answer."""
        waiting = self._files("tasks")
        for path in waiting:
            sync(path)
        if waiting:
            sync(self.folder / "tasks")
        return self.needed()

    def drop_without(self, holds: Callable[[str], bool]) -> None:
        """Drop tasks whose model is not held: a power cut took it. They are offered again."""
        for path in self._files("tasks"):
            if not holds(path.read_bytes()[:_DIGEST].hex()):
                log.warning("a task without its model is dropped")
                self._forget(path.name)

    @property
    def busy(self) -> bool:
        """Whether a task or a reply waits here."""
        return bool(self._files("tasks") or self._files("finished"))

    @property
    def room(self) -> int:
        """How many further tasks are taken now."""
        return max(0, WAITING - len(self._files("tasks")) - len(self._files("held")))

    def hold(self, name: str, memory: Streams | None = None) -> None:
        """A task is one of secure sessions, which will answer it; memory: what is to be remembered if it is
        counted, once that is known.
        """
        held, task = self._path("held", name), self._path("tasks", name)
        data = (held if held.exists() else task).read_bytes()
        frame = _parts(data[_DIGEST:])[1] if held.exists() else data[_DIGEST:]
        write_file(held, data[:_DIGEST], *_joined(_pack(memory or {}), frame))
        remove(task)

    def held(self) -> list[tuple[str, str, Task]]:
        """Name, digest of the model, and task, of those that wait for sessions or their verdict."""
        found = []
        for path in self._files("held"):
            data = path.read_bytes()
            found.append((path.name, data[:_DIGEST].hex(), read_task(_parts(data[_DIGEST:])[1])))
        return found

    def name(self, key: Key) -> str | None:
        """The name of the task with this key, if it is here."""
        return next((name for name, held in self._keys.items() if held == key), None)

    def next_task(self) -> tuple[str, str, Task] | None:
        """Name, digest of the model, and task, of the first that is not finished, in the order of keys."""
        path = min(self._files("tasks"), key=lambda path: self._keys[path.name], default=None)
        if path is None:
            return None
        data = path.read_bytes()
        return path.name, data[:_DIGEST].hex(), read_task(data[_DIGEST:])

    def needed(self) -> list[str]:
        """Digests of the models that tasks wait for."""
        found = []
        for path in (*self._files("tasks"), *self._files("held")):
            with path.open("rb") as file:
                found.append(file.read(_DIGEST).hex())
        return found

    def finish(self, name: str, reply: bytes, memory: Streams) -> None:
        """The reply to a task, and what is to be remembered if it is counted."""
        write_file(self._path("finished", name), *_joined(_pack(memory), reply))
        self._fresh.add(name)
        self._last = name, reply
        for stage in ("tasks", "held"):
            remove(self._path(stage, name))

    def finished(self) -> list[tuple[str, Key]]:
        """Names and keys of the replies that are to be uploaded."""
        return [(path.name, self._keys[path.name]) for path in self._files("finished")]

    def reply(self, name: str) -> bytes:
        """The frame of such a reply."""
        (last, reply), self._last = self._last, ("", b"")
        return reply if last == name else _parts(self._path("finished", name).read_bytes())[1]

    def is_fresh(self, name: str) -> bool:
        """Whether the reply was made by this process, so that the server has nothing of it yet."""
        return name in self._fresh

    def acknowledged(self, name: str) -> None:
        """The server has the reply; what it changes in memory waits for the verdict.

        Not flushed: after a power cut the server says again that it has it.
        """
        self._path("finished", name).replace(self._path("uploaded", name))

    def drop_parts(self, blobs: Iterable[Blob]) -> None:
        """These downloads have come whole and are kept elsewhere."""
        for blob in blobs:
            remove(self.folder / "parts" / blob.sha256)

    def pending(self) -> dict[Key, Streams]:
        """Memory that waits for a verdict, for a participant that begins anew."""
        found: dict[Key, Streams] = {}
        for stage, start in (("finished", 0), ("uploaded", 0), ("held", _DIGEST)):
            for path in self._files(stage):
                if memory := _unpack(_parts(path.read_bytes()[start:])[0]):
                    found[self._keys[path.name]] = memory
        return found

    def settle(self, key: Key) -> None:
        """The store is as the verdict on `key` wants it: make that durable, then forget the task."""
        names = [name for name, held in self._keys.items() if held == key]
        if not names:
            return
        self.settled = [*self.settled, *names][-REMEMBERED:]
        kept = list((self.folder / "memory").glob("*.bin"))
        for path in kept:
            sync(path)
        if kept:
            sync(self.folder / "memory")
        state = {**self.store.save(), "settled": {"json": _json(self.settled)}}
        write_file(self.folder / "memory.bin", packing.pack(state))
        for name in names:
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._keys.pop(name, None)
        self._fresh.discard(name)
        for stage in _STAGES:
            remove(self._path(stage, name))

    def _path(self, stage: str, name: str) -> Path:
        return self.folder / stage / name

    def _files(self, stage: str) -> list[Path]:
        return sorted(p for p in (self.folder / stage).iterdir() if _NAME.fullmatch(p.name))

    def _load(self) -> None:
        path = self.folder / "memory.bin"
        state: State = {}
        try:
            if path.exists():
                state = packing.unpack(path.read_bytes())
                named = fields.parse(state["settled"]["json"].tobytes(), "settled")
                self.settled = [fields.text(name, "settled") for name in fields.items(named, "settled")]
        except (WireError, KeyError) as error:
            told = "and the client goes on without what it remembered and had yet to upload"
            raise CheckpointError(f"{path} is damaged ({error}): remove {self.folder}, {told}") from error
        self.store.load({"index": state["index"]} if state else {})
        for name in self.settled:
            self._forget(name)
        for stage in _STAGES:
            self._find(stage)

    def _find(self, stage: str) -> None:
        """The keys of what lies in a folder; what has gone further already is dropped."""
        for path in self._files(stage):
            try:
                key = _key(stage, path.read_bytes())
            except WireError as error:
                log.error("%s is damaged and dropped: %s", path, error)
                remove(path)
                continue
            if key in self._keys.values():
                remove(path)
            else:
                self._keys[path.name] = key


def read_task(frame: bytes) -> Task:
    """The task in a frame; WireError if it is another message, or brings a model."""
    message = wire.decode(frame)
    if not isinstance(message, Task) or message.model:
        raise WireError("not the frame of a task without its model")
    return message


def _key(stage: str, data: bytes) -> Key:
    if stage == "tasks":
        return read_task(data[_DIGEST:]).key
    packed, frame = _parts(data[_DIGEST:] if stage == "held" else data)
    _unpack(packed)
    return read_task(frame).key if stage == "held" else wire.decode(frame).key


def _joined(packed: bytes, frame: bytes) -> tuple[bytes, bytes, bytes]:
    return len(packed).to_bytes(_LENGTH, "little"), packed, frame


def _parts(data: bytes) -> tuple[bytes, bytes]:
    """Packed memory and the frame that follows."""
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    return data[_LENGTH:end], data[end:]


def _pack(memory: Streams) -> bytes:
    if not memory:
        return b""
    names = {stream: list(groups) for stream, groups in memory.items()}
    tensors = {f"{stream}/{group}": memory[stream][group] for stream in names for group in names[stream]}
    return packing.pack({"": {"json": _json(names)}, **tensors})


def _unpack(data: bytes) -> Streams:
    if not data:
        return {}
    state = packing.unpack(data)
    try:
        names = fields.mapping(fields.parse(state[""]["json"].tobytes(), "streams"), "streams")
        return {
            stream: {str(g): state[f"{stream}/{g}"] for g in fields.items(groups, stream)}
            for stream, groups in names.items()
        }
    except KeyError as error:
        raise WireError(f"client memory lacks {error}") from error


def _json(value: object) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)
