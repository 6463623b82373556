"""Results on their way in: begun, appended to, accepted once whole and on the disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import threading
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

from fedkit import wire
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.leases import read, told
from fedkit.aggregator.refusal import Refusal
from fedkit.errors import WireError
from fedkit.messages import ClientId, EncodedUpdate, Failure, Key
from fedkit.runfolder import sync
from fedkit.secagg.messages import FromClient

_STRIPES = 64


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload as the journal has it. accepted: it is whole and safe, or not wanted any more."""

    task: int
    name: str
    bytes: int
    sha256: str
    accepted: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """An accepted result. at: when, on the clock of the run."""

    turn: int
    at: float
    key: Key
    name: str


class Uploads:
    """The uploads of a journal, one file each below `folder`."""

    def __init__(self, journal: Journal, folder: Path) -> None:
        self._journal, self._folder = journal, folder
        self._locks = [threading.Lock() for _ in range(_STRIPES)]
        folder.mkdir(parents=True, exist_ok=True)

    def begin(self, client: ClientId, key: Key, size: int, sha256: str) -> tuple[str, int]:
        """Name and offset of the upload of this key, begun now if it was not; Refusal.

        A device that has made the reply anew begins it anew: what was not whole gives way.
        """
        name = wire.name_of(key)
        self._demand_size(size)
        with self._lock(name):  # to the end: a result that comes whole meanwhile has other bytes
            with self._journal.transaction() as db:
                task = db.execute(
                    "SELECT id, verdict FROM tasks WHERE key = ? AND client = ?", (told(key), client)
                ).fetchone()
                if task is None:
                    raise Refusal(404, "unknown", "there is no such task, or all about it was told and done")
                if task[1] is not None:
                    return name, size
                if self._announce(db, task[0], name, size, sha256):
                    (self._folder / name).unlink(missing_ok=True)  # bytes of another result, or none
            upload = self._find(client, name)
            return name, self._held(upload, begin=True) if upload is not None else size

    def offset(self, client: ClientId, name: str) -> tuple[int, int]:
        """How many bytes of how many are held; Refusal."""
        with self._lock(name):
            upload = self._known(client, name)
            return self._held(upload), upload.bytes

    def append(self, client: ClientId, name: str, offset: int, data: bytes | IO[bytes]) -> tuple[int, int]:
        """Add bytes, all of them or none: how many of how many are held then; Refusal."""
        source = BytesIO(data) if isinstance(data, bytes) else data
        size = source.seek(0, os.SEEK_END)
        source.seek(0)
        with self._lock(name):
            upload = self._known(client, name)
            held = self._held(upload)
            if held == upload.bytes:
                return held, held
            if offset != held:
                raise Refusal(409, "offset", f"{held} bytes are held", {"Upload-Offset": str(held)})
            if held + size > upload.bytes:
                raise Refusal(413, "size", f"{held + size} bytes, {upload.bytes} were announced")
            self._write(name, held, source)
            return self._held(upload), upload.bytes

    def put(self, client: ClientId, name: str, body: IO[bytes], sha256: str) -> None:
        """Accept a result that came in one piece, unless it is here or not wanted any more; Refusal.

        body: a file on this disk, which is moved here. Another answer to a message of a secure session, whose
        first one the session has, is handed to it as well: it is signed, and contradicts the first.
        """
        size = body.seek(0, os.SEEK_END)
        self._demand_size(size)
        os.fsync(body.fileno())
        with self._lock(name), self._journal.transaction(durable=True) as db:
            rows = db.execute("SELECT id, key, verdict FROM tasks WHERE client = ?", (client,)).fetchall()
            found = [row for row in rows if wire.name_of(read(row[1])) == name]
            if not found:
                raise Refusal(404, "unknown", "there is no such task, or all about it was told and done")
            task, key, verdict = found[0]
            if verdict is not None:
                return
            if read(key).stage and self._is_read(db, task, name, sha256):
                db.execute("DELETE FROM replies WHERE task = ?", (task,))
            self._announce(db, task, name, size, sha256)
            if self._enter(db, task):
                Path(body.name).replace(self._folder / name)  # within: `sweep` would take it for a stray
                sync(self._folder)
        self._journal.wake()

    def replies(self, turn: int) -> list[Reply]:
        """Accepted results without a verdict, after that of `turn`, in the order of their acceptance."""
        with self._journal.transaction() as db:
            rows = db.execute(
                "SELECT turn, accepted, key, name FROM replies JOIN uploads USING (task) JOIN tasks"
                " ON id = replies.task WHERE turn > ? AND verdict IS NULL ORDER BY turn",
                (turn,),
            ).fetchall()
        return [Reply(number, at, read(key), name) for number, at, key, name in rows]

    def message(self, reply: Reply) -> EncodedUpdate | Failure | FromClient:
        """What was uploaded; a Failure of code "wire" if that is no result of this key.

        What was said in a secure session is removed: nothing of it is kept beyond what the session adds up.
        """
        path, expected = self._folder / reply.name, FromClient if reply.key.stage else EncodedUpdate
        try:
            found = wire.decode(path.read_bytes())
            if reply.key.stage:
                path.unlink()
        except (WireError, FileNotFoundError) as error:
            return Failure(reply.key, "wire", type(error).__name__, "", str(error))
        if not isinstance(found, expected | Failure) or found.key != reply.key:
            return Failure(reply.key, "wire", "WireError", "", "the frame is no result of this key")
        return found

    def sweep(self) -> None:
        """Remove files of uploads that were settled."""
        files = list(self._folder.iterdir())  # first: an upload has its row before it has a file
        with self._journal.transaction() as db:
            names = {name for (name,) in db.execute("SELECT name FROM uploads").fetchall()}
        for path in files:
            if path.name not in names:
                path.unlink(missing_ok=True)

    def _demand_size(self, size: int) -> None:
        most = int(self._journal.meta("most") or 0)
        if not 0 < size <= most:
            raise Refusal(413, "size", f"a result of {size} bytes; this job's have 1 to {most}")

    def _lock(self, name: str) -> threading.Lock:
        return self._locks[zlib.crc32(name.encode()) % _STRIPES]

    def _find(self, client: ClientId, name: str) -> Upload | None:
        with self._journal.transaction() as db:
            row = db.execute(
                "SELECT uploads.task, name, uploads.bytes, sha256, turn IS NOT NULL FROM uploads"
                " JOIN tasks ON id = uploads.task LEFT JOIN replies ON replies.task = id"
                " WHERE name = ? AND client = ?",
                (name, client),
            ).fetchone()
        if row is None:
            return None
        task, kept, size, sha256, accepted = row
        return Upload(task, kept, size, sha256, bool(accepted))

    def _known(self, client: ClientId, name: str) -> Upload:
        found = self._find(client, name)
        if found is None:
            raise Refusal(404, "unknown", "there is no such upload: begin it again with POST /v1/uploads")
        return found

    def _held(self, upload: Upload, begin: bool = False) -> int:
        """Bytes that are held; all of them only if the upload is accepted, which is tried here."""
        path = self._folder / upload.name
        if upload.accepted:
            return upload.bytes
        try:
            if begin:
                path.touch()
            size = path.stat().st_size
            if size < upload.bytes:
                return size
            with path.open("r+b") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != upload.sha256:
                    file.truncate(0)
                    raise Refusal(
                        422, "digest", "these are not the bytes that were announced", {"Upload-Offset": "0"}
                    )
                os.fsync(file.fileno())
        except FileNotFoundError:
            raise Refusal(404, "unknown", "the upload is gone: begin it again") from None
        sync(self._folder)
        self._accept(upload)
        return upload.bytes

    def _accept(self, upload: Upload) -> None:
        with self._journal.transaction(durable=True) as db:
            self._enter(db, upload.task)
        self._journal.wake()

    def _announce(self, db: sqlite3.Connection, task: int, name: str, size: int, sha256: str) -> bool:
        """Write down which result is on its way; whether another one was, or none. Refusal: one is here."""
        begun = db.execute("SELECT bytes, sha256 FROM uploads WHERE task = ?", (task,)).fetchone()
        if begun == (size, sha256):
            return False
        if db.execute("SELECT 1 FROM replies WHERE task = ?", (task,)).fetchone() is not None:
            raise Refusal(409, "other", "another result for this key was accepted, and that one stands")
        db.execute("REPLACE INTO uploads VALUES (?, ?, ?, ?)", (task, name, size, sha256))
        return True

    def _is_read(self, db: sqlite3.Connection, task: int, name: str, sha256: str) -> bool:
        """Whether the session has an answer other than this one: the file of what it has is gone."""
        other = db.execute(
            "SELECT 1 FROM replies JOIN uploads USING (task) WHERE task = ? AND sha256 != ?", (task, sha256)
        ).fetchone()
        return other is not None and not (self._folder / name).exists()

    def _enter(self, db: sqlite3.Connection, task: int) -> bool:
        """Enter the result of a task whose upload is there; whether it was not entered before."""
        entered = db.execute(
            "INSERT OR IGNORE INTO replies (accepted, task) SELECT ?, task FROM uploads WHERE task = ?",
            (self._journal.now(), task),
        )
        return entered.rowcount > 0

    def _write(self, name: str, held: int, source: IO[bytes]) -> None:
        try:
            with (self._folder / name).open("r+b") as file:
                try:
                    file.seek(held)
                    shutil.copyfileobj(source, file)
                    file.flush()
                except OSError:
                    file.truncate(held)
                    raise
        except FileNotFoundError:
            raise Refusal(404, "unknown", "the upload is gone: begin it again") from None
