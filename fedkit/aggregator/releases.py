"""Versions of the model as blobs, and the differences that lead to them."""

from __future__ import annotations

from dataclasses import dataclass

from fedkit import packing
from fedkit.aggregator.blobs import Blobs
from fedkit.aggregator.journal import Journal
from fedkit.downlink import Release
from fedkit.tensors import Layout

KEPT = 40
"""Versions to which a difference is kept."""


@dataclass(frozen=True, slots=True)
class Published:
    """A version of the model: its blob, and the difference that leads there from version `base`, if any.

    told_by: the version whose difference tells it; 0: it is told whole.
    """

    version: int
    model: str
    bytes: int
    base: int
    frame: str | None
    frame_bytes: int
    told_by: int = 0


class Releases:
    """The versions of a journal."""

    def __init__(self, journal: Journal, blobs: Blobs) -> None:
        self._journal, self._blobs = journal, blobs

    def publish(self, release: Release, layout: Layout) -> None:
        """Make a version known; it is on the disk once a task that names it is.

        After a crash a round may be repeated and lead elsewhere: the version is then replaced. Nobody was
        told to train from it before the checkpoint that holds it.
        """
        model = b"".join(packing.raw(layout.view(layout.flatten(release.model))))
        digest, size = self._blobs.put(model), len(model)
        known = self.find(release.version)
        frame = self._blobs.put(release.frame) if release.frame is not None else None
        length = len(release.frame or b"")
        row = (release.version, digest, size, release.base, frame, length)
        with self._journal.transaction() as db:
            if known is None or known.model != digest:
                db.execute("REPLACE INTO releases VALUES (?, ?, ?, ?, ?, ?)", row)
                db.execute("DELETE FROM tellings WHERE max(version, told_by) >= ?", (release.version,))
            db.execute("DELETE FROM releases WHERE version > ?", (release.version,))
            db.execute("UPDATE releases SET frame = NULL WHERE version <= ?", (release.version - KEPT,))

    def find(self, version: int) -> Published | None:
        """A version; None if it is not known."""
        with self._journal.transaction() as db:
            row = db.execute("SELECT * FROM releases WHERE version = ?", (version,)).fetchone()
        return Published(*row) if row is not None else None

    def last(self) -> Published | None:
        """The model of a run that is over; None while it goes on."""
        if not self._journal.meta("over"):
            return None
        with self._journal.transaction() as db:
            row = db.execute("SELECT * FROM releases ORDER BY version DESC LIMIT 1").fetchone()
        return Published(*row) if row is not None else None

    def sweep(self) -> None:
        """Remove blobs that nothing refers to any more."""
        with self._journal.transaction() as db:
            db.execute(
                "DELETE FROM tellings WHERE version < (SELECT max(version) FROM releases)"
                " AND version NOT IN (SELECT version FROM tasks WHERE verdict IS NULL)"
            )
            rows = db.execute(
                "SELECT frame FROM tasks WHERE verdict IS NULL UNION SELECT frame FROM releases UNION"
                " SELECT frame FROM tellings UNION"
                " SELECT model FROM releases WHERE version = (SELECT max(version) FROM releases) UNION"
                " SELECT model FROM releases JOIN tasks USING (version) WHERE verdict IS NULL"
            ).fetchall()
        self._blobs.keep({digest for (digest,) in rows if digest is not None})
