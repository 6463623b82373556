"""Model differences told by one that a device holds, where that is shorter than to tell them whole."""

from __future__ import annotations

import threading
from dataclasses import replace

from fedkit import jobfile
from fedkit.aggregator.blobs import Blobs
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.releases import Published, Releases
from fedkit.downlink import relative
from fedkit.job import Job


class Tellings:
    """Made when a device first could use one, and then for all that hold the same version."""

    def __init__(self, journal: Journal, blobs: Blobs, releases: Releases) -> None:
        self._journal, self._blobs, self._releases = journal, blobs, releases
        self._lock = threading.Lock()
        self._job: Job | None = None

    def shortest(self, release: Published, held: int) -> Published:
        """The release with the shortest difference for a device that holds the one to version `held`."""
        if not held or held >= release.version or release.base != 1 or release.frame is None:
            return release
        with self._lock:  # one telling at a time: it is work, and many may ask for the same
            found = self._find(release.version, held) or self._make(release, held)
        frame, size = found
        if not frame or size >= release.frame_bytes:
            return release
        return replace(release, told_by=held, frame=frame, frame_bytes=size)

    def _find(self, version: int, held: int) -> tuple[str, int] | None:
        with self._journal.transaction() as db:
            row: tuple[str, int] | None = db.execute(
                "SELECT frame, bytes FROM tellings WHERE version = ? AND told_by = ?", (version, held)
            ).fetchone()
        return row

    def _make(self, release: Published, held: int) -> tuple[str, int]:
        """The blob and its length; no blob where the codec has no way to tell it, or `held` is not kept."""
        teller = self._releases.find(held)
        paths = [self._blobs.find(one.frame) for one in (release, teller) if one is not None and one.frame]
        told = None
        if teller is not None and teller.base == 1 and len(paths) == 2:
            whole, other = (path.read_bytes() if path is not None else b"" for path in paths)
            job = self._known_job()
            told = relative(job.codec_down, job.layout, whole, other) if whole and other else None
        made = (self._blobs.put(told), len(told)) if told is not None else ("", 0)
        with self._journal.transaction() as db:
            db.execute("INSERT OR IGNORE INTO tellings VALUES (?, ?, ?, ?)", (release.version, held, *made))
        return made

    def _known_job(self) -> Job:
        if self._job is None:
            data = self._journal.meta("job")
            self._job = jobfile.decode(data if isinstance(data, bytes) else b"")
        return self._job
