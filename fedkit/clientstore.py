"""What a client remembers between rounds, by client and stream.

Streams are "strategy" (control variates ...), "personal" (tensors that do not travel) and, with
error feedback, "residual". In simulation one store holds every client; on a device it is the disk.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sys
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkit import fields, packing
from fedkit.errors import CheckpointError, WireError
from fedkit.messages import ClientId
from fedkit.tensors import Memory, State

Place: TypeAlias = tuple[ClientId, str]

_FILE = re.compile(r"[0-9a-f]{40}-[0-9]+\.bin(\.part)?")
_DIGEST = 16
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors that say nothing of the file."""
CACHE_BYTES = 1 << 28


class ClientStore(Protocol):
    """Committed memory only: an update's memory is put here when its update was counted."""

    def get(self, client: ClientId, stream: str) -> Memory:
        """The memory of that stream; empty before the first `put`. Not to be changed in place."""
        ...

    def put(self, client: ClientId, stream: str, memory: Memory) -> None:
        """Replace the memory of that stream; an empty one removes it."""
        ...

    def save(self) -> State:
        """What `load` needs: the contents, or for a store on disk an index of it."""
        ...

    def load(self, state: State) -> None:
        """Continue from `save`, forgetting whatever was put since."""
        ...


class MemoryStore:
    """All clients of a process: in RAM, or with a directory in files of which `cache_bytes` are in RAM.

    A put writes a new file, and a file that one of the last two saved indices names is never changed
    or removed. So a process killed at any instant, also between `save` and the checkpoint that holds
    its index, continues from the last index with every file that it names. Files are not flushed to
    the disk one by one: a power cut may lose them, and then `get` says so. aside: a folder to which a damaged
    file is moved when that was said; that memory is empty from then on.
    """

    def __init__(
        self,
        directory: Path | str | None = None,
        cache_bytes: int = CACHE_BYTES,
        aside: Path | None = None,
    ) -> None:
        self._aside = aside
        self._files = _Files(Path(directory)) if directory is not None else None
        self._cache = _Cache(cache_bytes if self._files is not None else sys.maxsize)

    def get(self, client: ClientId, stream: str) -> Memory:
        """The memory of that stream; CheckpointError if its file is gone or damaged."""
        place = (client, stream)
        memory = self._cache.get(place)
        if memory is None and self._files is not None and place in self._files.versions:
            try:
                memory, size = self._files.read(place)
            except CheckpointError as error:
                if self._aside is None or getattr(error.__cause__, "errno", None) in _PASSING:
                    raise
                self._files.set_aside(place, self._aside)
                told = f"{error}; it is set aside in {self._aside}, and the client goes on without it"
                raise CheckpointError(told) from error
            self._cache.put(place, memory, size)
        return memory if memory is not None else {}

    def put(self, client: ClientId, stream: str, memory: Memory) -> None:
        """Replace the memory of that stream; an empty one removes it."""
        place = (client, stream)
        self._cache.drop(place)
        if self._files is not None:
            self._files.discard(place)
        if not memory:
            return
        if self._files is not None:
            self._files.write(place, memory)
        size = sum(packing.nbytes(packing.layout_of(tensors)) for tensors in memory.values())
        self._cache.put(place, {name: packing.copy(tensors) for name, tensors in memory.items()}, size)

    def save(self) -> State:
        """The contents or, with a directory, an index of a few bytes for each client."""
        if self._files is not None:
            return {"index": {"json": _bytes(self._files.save())}}
        entries = sorted(self._cache.items())
        packed = {str(i): _bytes(packing.pack(memory)) for i, (_, memory) in enumerate(entries)}
        return {
            "index": {"json": _bytes(json.dumps([place for place, _ in entries]).encode())},
            "memory": packed,
        }

    def load(self, state: State) -> None:
        """Continue from `save`, or from nothing; CheckpointError if `state` is not of this kind of store."""
        self._cache.clear()
        rows = _rows(state, 2 if self._files is None else 3)
        if self._files is not None:
            self._files.load(rows)
            return
        for i, (client, stream) in enumerate(rows):
            memory = _unpack(state["memory"][str(i)].tobytes(), f"memory of client {client!r}")
            self._cache.put((str(client), str(stream)), memory, 0)


def _private(path: str, flags: int) -> int:
    """A residual tells of its client's data: its owner alone may read it, whatever the umask."""
    return os.open(path, flags, 0o600)


class _Files:
    """One file for each version of a memory; the index says which version counts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder  # made when there is something to remember
        self.versions: dict[Place, int] = {}
        self._last = 0  # newest version given out
        self._saved = 0  # newest version that an index may name
        self._replaced: list[Path] = []  # named by the last index, not by the next
        self._expired: list[Path] = []  # named by the index before the last only

    def write(self, place: Place, memory: Memory) -> None:
        self._last += 1
        self.versions[place] = self._last
        path, data = self._path(place), packing.pack(memory)
        self._folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        with open(part, "wb", opener=_private) as file:
            file.write(_digest(data) + data)
        part.replace(path)

    def read(self, place: Place) -> tuple[Memory, int]:
        path = self._path(place)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"client memory {path} cannot be read: {error.strerror}") from error
        if _digest(data[_DIGEST:]) != data[:_DIGEST]:
            raise CheckpointError(f"client memory {path} is damaged: its checksum does not match")
        return _unpack(data[_DIGEST:], str(path)), len(data)

    def set_aside(self, place: Place, folder: Path) -> None:
        """Forget a memory whose file is damaged, if it is there at all, and keep the file elsewhere."""
        path = self._path(place)
        del self.versions[place]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            path.replace(folder / path.name)

    def discard(self, place: Place) -> None:
        if place not in self.versions:
            return
        path = self._path(place)
        if self.versions.pop(place) > self._saved:
            path.unlink(missing_ok=True)
        else:
            self._replaced.append(path)

    def save(self) -> bytes:
        for path in self._expired:
            path.unlink(missing_ok=True)
        self._expired, self._replaced = self._replaced, []
        self._saved = self._last
        rows = [[*place, version] for place, version in sorted(self.versions.items())]
        return json.dumps(rows).encode()

    def load(self, rows: list[list[object]]) -> None:
        self.versions = {(str(c), str(s)): fields.integer(v, "version") for c, s, v in rows}
        self._last = self._saved = max(self.versions.values(), default=0)
        self._replaced, self._expired = [], []
        named = {self._path(place).name for place in self.versions}
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if path.name not in named and _FILE.fullmatch(path.name):
                path.unlink()

    def _path(self, place: Place) -> Path:
        """Client ids come from outside, so a hash names the file."""
        name = hashlib.sha256(json.dumps(place).encode()).hexdigest()[:40]
        return self._folder / f"{name}-{self.versions[place]}.bin"


class _Cache:
    """Least recently used memories, bounded by their size in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[Place, tuple[Memory, int]] = OrderedDict()
        self._total = 0

    def get(self, place: Place) -> Memory | None:
        if place not in self._held:
            return None
        self._held.move_to_end(place)
        return self._held[place][0]

    def put(self, place: Place, memory: Memory, size: int) -> None:
        self.drop(place)
        self._held[place] = (memory, size)
        self._total += size
        while self._total > self._limit:
            self._total -= self._held.popitem(last=False)[1][1]

    def drop(self, place: Place) -> None:
        if place in self._held:
            self._total -= self._held.pop(place)[1]

    def items(self) -> Iterable[tuple[Place, Memory]]:
        return ((place, memory) for place, (memory, _) in self._held.items())

    def clear(self) -> None:
        self._held.clear()
        self._total = 0


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST).digest()


def _unpack(data: bytes, what: str) -> Memory:
    try:
        return packing.unpack(data)
    except WireError as error:
        raise CheckpointError(f"{what} is damaged: {error}") from error


def _bytes(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8).copy()


def _rows(state: State, width: int) -> list[list[object]]:
    if not state:
        return []
    try:
        rows = fields.items(fields.parse(state["index"]["json"].tobytes(), "index"), "index")
        return [fields.items(row, "entry", width) for row in rows]
    except (KeyError, WireError) as error:
        raise CheckpointError(f"not what this store of client memory saved: {error}") from error
