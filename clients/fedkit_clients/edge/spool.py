"""What a client must not lose, on disk: tasks, finished updates, what it remembers.

    ID/tasks/FRAME         digest of the model (32 bytes), then the task's frame without it
    ID/held/FRAME          digest of the model, memory that waits for a verdict, the task's frame: one that
                           secure sessions answer, of which nothing else is on the disk
    ID/finished/FRAME      memory that waits for a verdict, then the frame of the reply: to be uploaded
    ID/uploaded/FRAME      the same, acknowledged by the server
    ID/memory/             committed memory; memory.bin says which of its files count
    ID/models/, ID/parts/  models, and downloads that are not whole yet
    ID/damaged/            files that were found damaged, for the owner to look at

All but models and parts, which their digests name, begin with a checksum (checked.py). A task that is
damaged, or its reply, is forgotten, and the aggregator is asked to offer it again: it is done anew.

ID names job and run (root.py), FRAME is the SHA-256 of the task's frame. Every step is one rename, so a
process killed at any instant leaves one state or the next. A power cut may take a task that was not
acknowledged, which is then offered again; what was promised, or finished, is flushed before that is said.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from fedkit import fields, packing, wire
from fedkit.clientstore import MemoryStore
from fedkit.errors import CheckpointError, WireError
from fedkit.messages import Key, Task
from fedkit.runfolder import sync
from fedkit.tensors import State
from fedkit_clients.edge.checked import SUM, Damaged, read_checked, set_aside, write_checked
from fedkit_clients.edge.files import newest_first, private_folder, remove
from fedkit_clients.edge.offers import Blob
from fedkit_clients.edge.packed import Streams, as_json, joined, pack, parts, read_task, unpack

log = logging.getLogger("fedkit.edge")

WAITING = 32
"""Tasks that may wait here, with their models, or for their upload; and replies that may wait for their
verdict: an aggregator must not fill the disk."""
REMEMBERED = 256
"""Settled tasks that are known again if they are offered once more."""
CACHE = 1 << 24
"""Bytes of client memory that are kept in RAM beside the disk."""
_DIGEST = 32
_STAGES = ("uploaded", "finished", "held", "tasks")
_NAME = re.compile(r"[0-9a-f]{64}")


class Spool:
    """One job of one client. `settled` are the last tasks with a verdict, by the names of their frames."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._aside = folder / "damaged"
        for name in ("", *_STAGES, "memory", "models", "parts"):
            private_folder(folder / name)
        for path in folder.rglob("*.tmp"):
            remove(path)
        self.store = MemoryStore(folder / "memory", CACHE, self._aside)
        self.missing = True
        """Whether the aggregator may hold a task for taken that is not here: to be asked for once more."""
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
            write_checked(self._path("tasks", name), bytes.fromhex(model), frame, lasting=False)
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
            data = self._read(path)
            if data is not None and not holds(data[:_DIGEST].hex()):
                log.warning("a task without its model is dropped")
                self.drop(path.name)

    @property
    def busy(self) -> bool:
        """Whether a task or a reply waits here."""
        return bool(self._files("tasks") or self._files("finished"))

    @property
    def room(self) -> int:
        """How many further tasks are taken now."""
        return max(0, WAITING - sum(len(self._files(stage)) for stage in ("tasks", "held", "finished")))

    def hold(self, name: str, memory: Streams | None = None) -> None:
        """A task is one of secure sessions, which will answer it; memory: what is to be remembered if it is
        counted, once that is known.
        """
        held, task = self._path("held", name), self._path("tasks", name)
        again = held.exists()
        data = self._read(held if again else task)
        if data is not None:
            frame = parts(data[_DIGEST:])[1] if again else data[_DIGEST:]
            write_checked(held, data[:_DIGEST], *joined(pack(memory or {}), frame))
            remove(task)

    def held(self) -> list[tuple[str, str, Task]]:
        """Name, digest of the model, and task, of those that wait for sessions or their verdict."""
        return [
            (path.name, data[:_DIGEST].hex(), read_task(parts(data[_DIGEST:])[1]))
            for path in self._files("held")
            if (data := self._read(path)) is not None
        ]

    def name(self, key: Key) -> str | None:
        """The name of the task with this key, if it is here."""
        return next((name for name, held in self._keys.items() if held == key), None)

    def next_task(self) -> tuple[str, str, Task] | None:
        """Name, digest of the model, and task, of the first that is not finished, in the order of keys."""
        for path in sorted(self._files("tasks"), key=lambda path: self._keys[path.name]):
            if (data := self._read(path)) is not None:
                return path.name, data[:_DIGEST].hex(), read_task(data[_DIGEST:])
        return None

    def needed(self) -> list[str]:
        """Digests of the models that tasks wait for."""
        found = []
        for path in (*self._files("tasks"), *self._files("held")):
            try:
                with path.open("rb") as file:
                    file.seek(SUM)
                    found.append(file.read(_DIGEST).hex())
            except OSError:
                self._read(path)
        return found

    def finish(self, name: str, reply: bytes, memory: Streams) -> None:
        """The reply to a task, and what is to be remembered if it is counted."""
        write_checked(self._path("finished", name), *joined(pack(memory), reply))
        self._fresh.add(name)
        self._last = name, reply
        for stage in ("tasks", "held"):
            remove(self._path(stage, name))

    def finished(self) -> list[tuple[str, Key]]:
        """Names and keys of the replies that are to be uploaded."""
        return [(path.name, self._keys[path.name]) for path in self._files("finished")]

    def reply(self, name: str) -> bytes | None:
        """The frame of such a reply; None: it is damaged, and the task is to be done again."""
        (last, reply), self._last = self._last, ("", b"")
        if last == name:
            return reply
        data = self._read(self._path("finished", name))
        return parts(data)[1] if data is not None else None

    def is_fresh(self, name: str) -> bool:
        """Whether the reply was made by this process, so that the server has nothing of it yet."""
        return name in self._fresh

    def acknowledged(self, name: str) -> None:
        """The server has the reply; what it changes in memory waits for the verdict.

        Not flushed: after a power cut the server says again that it has it.
        """
        self._path("finished", name).replace(self._path("uploaded", name))

    def forsaken(self) -> list[Key]:
        """Keys of replies that the aggregator has had for so long that no verdict is waited for any more."""
        return [self._keys[path.name] for path in newest_first(self.folder / "uploaded")[WAITING:]]

    def drop_parts(self, blobs: Iterable[Blob]) -> None:
        """These downloads have come whole and are kept elsewhere."""
        for blob in blobs:
            remove(self.folder / "parts" / blob.sha256)

    def pending(self) -> dict[Key, Streams]:
        """Memory that waits for a verdict, for a participant that begins anew."""
        found: dict[Key, Streams] = {}
        for stage, start in (("finished", 0), ("uploaded", 0), ("held", _DIGEST)):
            for path in self._files(stage):
                data, key = self._read(path), self._keys[path.name]
                if data is not None and (memory := unpack(parts(data[start:])[0])):
                    found[key] = memory
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
        state = {**self.store.save(), "settled": {"json": as_json(self.settled)}}
        write_checked(self.folder / "memory.bin", packing.pack(state))
        for name in names:
            self._forget(name)

    def drop(self, name: str) -> None:
        """Forget a task that cannot be done as it is here: the aggregator offers it again."""
        self._forget(name)
        self.missing = True

    def _read(self, path: Path) -> bytes | None:
        """What a file holds; None: it is damaged, and the task is dropped."""
        try:
            return read_checked(path)
        except Damaged as error:
            set_aside(path, self._aside, error)
            self.drop(path.name)
            return None

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
                state = packing.unpack(read_checked(path))
                named = fields.parse(state["settled"]["json"].tobytes(), "settled")
                self.settled = [fields.text(name, "settled") for name in fields.items(named, "settled")]
                self.store.load({"index": state["index"]})
        except (Damaged, WireError, CheckpointError, KeyError) as error:
            set_aside(path, self._aside, error)  # and what the client remembers with it
            state, self.settled = {}, []
        if not state:
            self.store.load({})
        for name in self.settled:
            self._forget(name)
        for stage in _STAGES:
            self._find(stage)

    def _find(self, stage: str) -> None:
        """The keys of what lies in a folder; what has gone further already is dropped."""
        for path in self._files(stage):
            try:
                key = _key(stage, read_checked(path))
            except (Damaged, WireError) as error:
                set_aside(path, self._aside, error)
                continue
            if key in self._keys.values():
                remove(path)
            else:
                self._keys[path.name] = key


def _key(stage: str, data: bytes) -> Key:
    if stage == "tasks":
        return read_task(data[_DIGEST:]).key
    packed, frame = parts(data[_DIGEST:] if stage == "held" else data)
    unpack(packed)
    return read_task(frame).key if stage == "held" else wire.decode(frame).key
