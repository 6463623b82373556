"""Blobs on disk, each under its SHA-256: models, model differences, frames of tasks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from pathlib import Path

from fedkit.runfolder import place_file

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Blobs:
    """Files ab/cdef... below `folder`; a blob is there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, data: bytes) -> str:
        """Store a blob; its digest in hex. RunFailed, naming the file, if the disk refuses.

        A power cut may take it: a run that goes on puts again what it needs, and it is not waited for.
        """
        digest = hashlib.sha256(data).hexdigest()
        path = self._path(digest)
        if not path.is_file() or path.stat().st_size != len(data):
            path.parent.mkdir(parents=True, exist_ok=True)
            place_file(path, data)
        return digest

    def find(self, digest: str) -> Path | None:
        """The file of a blob; None if there is none. Any text may be asked for."""
        if not _DIGEST.fullmatch(digest):
            return None
        path = self._path(digest)
        return path if path.is_file() else None

    def read(self, digest: str) -> bytes | None:
        """The bytes of a blob; None if there is none."""
        path = self.find(digest)
        try:
            return path.read_bytes() if path is not None else None
        except FileNotFoundError:
            return None

    def check(self) -> None:
        """Remove blobs that a power cut has damaged; they are put again."""
        for path in self._folder.glob("??/*"):
            with path.open("rb") as file:
                whole = hashlib.file_digest(file, "sha256").hexdigest() == path.parent.name + path.name
            if not whole:
                path.unlink()

    def keep(self, wanted: Collection[str]) -> None:
        """Remove all other blobs, and what a crash left of unfinished ones."""
        for path in self._folder.glob("??/*"):
            if f"{path.parent.name}{path.name}" not in wanted:
                path.unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest[2:]
