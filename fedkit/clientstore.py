"""What a client remembers between rounds, by client and stream.

Streams are "strategy" (control variates ...), "personal" (tensors that do not travel) and, with
error feedback, "residual". In simulation one store holds every client; on a device it is the disk.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

import numpy as np

from fedkit import fields, packing
from fedkit.errors import CheckpointError, WireError
from fedkit.messages import ClientId
from fedkit.tensors import Memory, State

_FILE = re.compile(r"[0-9a-f]{40}-[0-9]+\.bin(\.part)?")
_DIGEST = 16
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
    """All clients' memory in RAM; `save` returns the whole contents."""

    def __init__(self) -> None:
        self._held: dict[tuple[ClientId, str], Memory] = {}

    def get(self, client: ClientId, stream: str) -> Memory:
        return self._held.get((client, stream), {})

    def put(self, client: ClientId, stream: str, memory: Memory) -> None:
        if memory:
            self._held[client, stream] = {name: packing.copy(tensors) for name, tensors in memory.items()}
        else:
            self._held.pop((client, stream), None)

    def save(self) -> State:
        entries = sorted(self._held.items())
        names = [list(key) for key, _ in entries]
        packed = {str(i): _bytes(packing.pack(memory)) for i, (_, memory) in enumerate(entries)}
        return {"index": {"json": _bytes(json.dumps(names).encode())}, "memory": packed}

    def load(self, state: State) -> None:
        self._held = {}
        for i, (client, stream) in enumerate(_names(state, 2)):
            self._held[str(client), str(stream)] = packing.unpack(state["memory"][str(i)].tobytes())


class DiskStore:
    """Memory in versioned files under `folder`; at most `cache_bytes` of it in RAM.

    A put writes a new file, and a file that one of the last two `save`d indices names is never
    changed or removed. So a process killed at any instant, between a put and the checkpoint that
    holds the next index too, continues from the last index with every file that it names. Files are
    not flushed to the disk one by one: a power cut may lose them, and then `get` says so.
    """

    def __init__(self, folder: Path, cache_bytes: int = CACHE_BYTES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._cache = _Cache(cache_bytes)
        self._versions: dict[tuple[ClientId, str], int] = {}
        self._last = 0  # newest version given out
        self._saved = 0  # newest version that an index may name
        self._replaced: list[Path] = []  # named by the last index, not by the next
        self._expired: list[Path] = []  # named by the index before the last

    def get(self, client: ClientId, stream: str) -> Memory:
        """The memory of that stream; CheckpointError if its file is gone or damaged."""
        key = (client, stream)
        if key not in self._versions:
            return {}
        memory = self._cache.get(key)
        if memory is None:
            memory, size = _read(self._path(key))
            self._cache.put(key, memory, size)
        return memory

    def put(self, client: ClientId, stream: str, memory: Memory) -> None:
        """Replace the memory of that stream; an empty one removes it."""
        key = (client, stream)
        self._discard(key)
        if memory:
            self._last += 1
            self._versions[key] = self._last
            size = _write(self._path(key), memory)
            self._cache.put(key, {n: packing.copy(tensors) for n, tensors in memory.items()}, size)

    def save(self) -> State:
        """An index of the files, a few bytes for each client; the previous one stays valid."""
        for path in self._expired:
            path.unlink(missing_ok=True)
        self._expired, self._replaced = self._replaced, []
        self._saved = self._last
        rows = [[client, stream, version] for (client, stream), version in sorted(self._versions.items())]
        return {"index": {"json": _bytes(json.dumps(rows).encode())}}

    def load(self, state: State) -> None:
        """Continue from an index: files that it does not name are removed."""
        self._cache.clear()
        self._versions = {}
        for client, stream, version in _names(state, 3):
            self._versions[str(client), str(stream)] = fields.integer(version, "version")
        self._last = self._saved = max(self._versions.values(), default=0)
        self._replaced, self._expired = [], []
        named = {self._path(key).name for key in self._versions}
        for path in self._folder.iterdir():
            if path.name not in named and _FILE.fullmatch(path.name):
                path.unlink()

    def _discard(self, key: tuple[ClientId, str]) -> None:
        self._cache.drop(key)
        if key not in self._versions:
            return
        path = self._path(key)
        if self._versions.pop(key) > self._saved:
            path.unlink(missing_ok=True)
        else:
            self._replaced.append(path)

    def _path(self, key: tuple[ClientId, str]) -> Path:
        """Client ids come from outside, so a hash names the file."""
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:40]
        return self._folder / f"{name}-{self._versions[key]}.bin"


class _Cache:
    """Least recently used memories, bounded by their size in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[tuple[ClientId, str], tuple[Memory, int]] = OrderedDict()
        self._total = 0

    def get(self, key: tuple[ClientId, str]) -> Memory | None:
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return self._held[key][0]

    def put(self, key: tuple[ClientId, str], memory: Memory, size: int) -> None:
        self.drop(key)
        self._held[key] = (memory, size)
        self._total += size
        while self._total > self._limit:
            self._total -= self._held.popitem(last=False)[1][1]

    def drop(self, key: tuple[ClientId, str]) -> None:
        if key in self._held:
            self._total -= self._held.pop(key)[1]

    def clear(self) -> None:
        self._held.clear()
        self._total = 0


def _write(path: Path, memory: Memory) -> int:
    data = packing.pack(memory)
    part = path.with_name(path.name + ".part")
    part.write_bytes(hashlib.blake2b(data, digest_size=_DIGEST).digest() + data)
    part.replace(path)
    return len(data)


def _read(path: Path) -> tuple[Memory, int]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"client memory {path} cannot be read: {error.strerror}") from error
    digest, data = data[:_DIGEST], data[_DIGEST:]
    if hashlib.blake2b(data, digest_size=_DIGEST).digest() != digest:
        raise CheckpointError(f"client memory {path} is damaged: its checksum does not match")
    return packing.unpack(data), len(data)


def _bytes(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(data, np.uint8).copy()


def _names(state: State, width: int) -> list[list[object]]:
    if not state:
        return []
    try:
        rows = fields.items(fields.parse(state["index"]["json"].tobytes(), "index"), "index")
        return [fields.items(row, "entry", width) for row in rows]
    except (KeyError, WireError) as error:
        raise CheckpointError(f"not an index of client memory: {error}") from error
