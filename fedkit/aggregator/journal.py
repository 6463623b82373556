"""What an aggregator must not forget, in one SQLite file; blobs and uploads lie beside it.

    journal.sqlite   clients, nonces, versions of the model, tasks, uploads, replies
    blobs/           what clients fetch (blobs.py)        uploads/   what clients send (uploads.py)

One connection under one lock serves the training loop and the requests of devices: SQLite has one writer
anyway. What a device is told to be safe is on the disk by then (synchronous = FULL); what it would only
send again is not flushed.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from fedkit.aggregator.schema import migrate
from fedkit.errors import CheckpointError, ConfigError
from fedkit.federation import Traffic
from fedkit.messages import ClientId
from fedkit.runfolder import lock_file
from fedkit.signing import SKEW, VERSION

_SILENT = 5.0
"""Seconds of silence after which a request wakes the training loop: it may wait for clients."""
_LAST = (
    "SELECT max(t) FROM (SELECT value AS t FROM meta WHERE name = 'alive' UNION ALL"
    " SELECT max(seen) FROM clients UNION ALL SELECT max(accepted) FROM replies)"
)


class Journal:
    """The journal in `directory`, made if there is none; this process has it to itself.

    Its clock reads unix time when the directory is new, and stands still while no process has it: so
    downtime extends every deadline. ConfigError: in use by another process, or no folder can be made;
    CheckpointError: damaged, or of a newer fedkit; tables of an older one are brought up to date.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(0o700, parents=True, exist_ok=True)  # what devices send is in it
            self._lock_file = lock_file(directory / "lock")
        except OSError as error:
            raise ConfigError(f"{directory} cannot hold a journal: {error.strerror or error}") from error
        self._lock = threading.RLock()
        self._changed, self._ticks = threading.Condition(), 0
        self._listeners: list[Callable[[Collection[ClientId]], None]] = []
        try:
            self._db = _open(directory / "journal.sqlite")
            last: float | None = self._db.execute(_LAST).fetchone()[0]
            self._seen: dict[ClientId, float] = dict(self._db.execute("SELECT client, seen FROM clients"))
            self._up, self._down = int(self.meta("up") or 0), int(self.meta("down") or 0)
        except (sqlite3.Error, CheckpointError) as error:
            self._lock_file.close()
            raise CheckpointError(f"{directory / 'journal.sqlite'} cannot be continued: {error}") from error
        self._start = (last if last is not None else time.time()) - time.monotonic()
        self.opened = self.now()
        """When this process opened it, on the clock of the run."""

    def now(self) -> float:
        """The clock of the run, in seconds; it never goes back."""
        return self._start + time.monotonic()

    @contextmanager
    def transaction(self, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """All that is written inside happens or nothing does. durable: it is on the disk at the end."""
        with self._lock:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def held(self) -> Iterator[sqlite3.Connection]:
        """Nothing else happens to the journal meanwhile; nothing may be written."""
        with self._lock:
            yield self._db

    def meta(self, name: str) -> str | bytes | float | None:
        """A value that `put` has written."""
        with self._lock:
            row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        found: str | bytes | float | None = row[0] if row is not None else None
        return found

    def put(self, durable: bool = False, **values: str | bytes | float) -> None:
        """Write such values, all or none."""
        with self.transaction(durable) as db:
            db.executemany("REPLACE INTO meta (name, value) VALUES (?, ?)", values.items())

    def admit(self, client: ClientId, nonce: str, at: int, wall: float, version: int = VERSION) -> bool:
        """Whether this client's nonce is new; if so the client was seen. at: when it was signed.

        version: of the protocol, as the client speaks it.
        """
        now, new = self.now(), False
        with self.transaction() as db:
            db.execute("DELETE FROM nonces WHERE time < ?", (int(wall) - 2 * SKEW,))
            added = db.execute("INSERT OR IGNORE INTO nonces VALUES (?, ?, ?)", (nonce, client, at)).rowcount
            if added:
                db.execute(
                    "REPLACE INTO clients (client, seen, version) VALUES (?, ?, ?)", (client, now, version)
                )
                before = self._seen.get(client, 0.0)
                new = now - before > _SILENT or before <= self.opened
                self._seen[client] = now
        if new:
            self.wake()
        return bool(added)

    def seen(self, client: ClientId) -> float:
        """When the client was last heard of, on the clock of the run; 0 if never."""
        return self._seen.get(client, 0.0)

    def count(self, up: int = 0, down: int = 0) -> None:
        """Bytes that went over the network."""
        with self._lock:
            self._up, self._down = self._up + up, self._down + down

    def traffic(self) -> Traffic:
        """Bytes so far."""
        with self._lock:
            return Traffic(self._up, self._down)

    def beat(self) -> None:
        """Note that this process is alive, and what it has counted."""
        self.put(alive=self.now(), up=self._up, down=self._down)

    def listen(self, listener: Callable[[Collection[ClientId]], None]) -> None:
        """Call `listener`, in whatever thread, with the clients for whom there is something new."""
        self._listeners.append(listener)

    def tell(self, clients: Collection[ClientId]) -> None:
        """There is something new for these clients."""
        for listener in self._listeners:
            listener(clients)

    @property
    def ticks(self) -> int:
        """How often something came from a client that the training loop may wait for."""
        return self._ticks

    def wake(self) -> None:
        """Something came from a client."""
        with self._changed:
            self._ticks += 1
            self._changed.notify_all()

    def wait(self, ticks: int, seconds: float) -> None:
        """Wait until `ticks` is no longer what it was, at most so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._ticks != ticks, max(0.0, seconds))

    def close(self) -> None:
        """Let go of the file and the lock."""
        with self._lock:
            self._db.close()
            self._lock_file.close()


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA foreign_keys = ON")
    try:
        migrate(db)
    except BaseException:
        db.close()
        raise
    return db
