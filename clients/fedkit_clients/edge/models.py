"""The models that a client holds on disk, and the shortest way to one that it does not.

    models/VERSION-SHA256.model     a model: the tensors of the job's layout, little-endian, end to end
    models/VERSION-SHA256.frame     the difference from version 1 that led there, told whole

Kept are the first version, of which there is one, the newest two, and those that a task waits for.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection
from pathlib import Path

from fedkit import packing
from fedkit.downlink import DIGEST, Follower
from fedkit.errors import WireError
from fedkit.job import Job
from fedkit.runfolder import sync
from fedkit.tensors import Tensors, pick
from fedkit.trainer import Workload
from fedkit_clients.edge.answers import Refused
from fedkit_clients.edge.checked import Damaged, read_lasting
from fedkit_clients.edge.files import remove, write_file
from fedkit_clients.edge.offers import Blob, Difference, Offer

log = logging.getLogger("fedkit.edge")
NEWEST = 2
PARTS = "parts"
"""The folder beside that of the models, where blobs are while they come (spool.py)."""

Fetch = Callable[[Blob], bytes]


class Models:
    """The models of one job. fetch: brings a blob."""

    def __init__(self, folder: Path, job: Job, workload: Workload, fetch: Fetch) -> None:
        self._folder, self._job, self._workload, self._fetch = folder, job, workload, fetch
        self._last = "", b""  # what came last, until it is read
        for path in folder.glob("*.tmp"):
            remove(path)
        for path in folder.glob("*.model"):  # they were not flushed: a power cut may have taken a part
            if not path.stem.endswith(_digest(_bytes(path))):
                remove(path)
                remove(path.with_suffix(".frame"))

    def read(self, sha256: str) -> Tensors:
        """A model that is held; WireError if it is not, or is damaged (it is then held no more)."""
        (last, data), self._last = self._last, ("", b"")
        if last == sha256:
            return packing.read([self._job.layout], data)[0]
        for path in self._folder.glob(f"*-{sha256}.model"):
            data = _bytes(path)
            if _digest(data) == sha256:
                return packing.read([self._job.layout], data)[0]
            remove(path)
        raise WireError(f"model {sha256[:16]} is not held")

    def holds(self, sha256: str) -> bool:
        """Whether a model is held."""
        return any(self._folder.glob(f"*-{sha256}.model"))

    def secure(self, digests: Collection[str]) -> None:
        """Flush these models to the disk."""
        for sha256 in digests:
            for path in self._folder.glob(f"*-{sha256}.model"):
                sync(path)
        sync(self._folder)

    def told(self) -> int:
        """The newest version whose difference is held and may tell another; 0 if there is none."""
        if self._job.down_base != "first":
            return 0
        return max((int(path.name.split("-")[0]) for path in self._folder.glob("*.frame")), default=0)

    def bring(self, offer: Offer) -> None:
        """Hold the model of an offer, on the shortest way that there is."""
        if self._path(offer.version, offer.model.sha256).exists():
            return
        if offer.model.bytes != self._job.layout.nbytes:
            raise WireError(f"model of {offer.model.bytes} bytes: the job's has {self._job.layout.nbytes}")
        if offer.version == 1 and _digest(first := self._first()) == offer.model.sha256:
            self._keep(1, first)
        elif not (offer.difference and self._follow(offer, offer.difference)):
            self._take(offer)

    def _take(self, offer: Offer) -> None:
        """Fetch a model; the file that it came by becomes the one that is kept."""
        data, sha256 = self._fetch(offer.model), offer.model.sha256
        part = self._folder.parent / PARTS / sha256
        if part.exists():
            part.replace(self._path(offer.version, sha256))
        else:
            self._keep(offer.version, data, sha256)
        self._last = sha256, data

    def prune(self, needed: Collection[str]) -> None:
        """Remove what is neither needed nor the first nor among the newest."""
        held = sorted(path.stem for path in self._folder.glob("*.model"))
        first = self._newest(1, ".model")
        kept = {*held[-NEWEST:], *([first.stem] if first is not None else [])}
        kept |= {name for name in held if name.split("-")[1] in needed}
        for path in self._folder.iterdir():
            if path.stem not in kept:
                remove(path)

    def _first(self) -> bytes:
        """The initial model, which the job's seed makes."""
        layout = self._job.layout
        model = self._workload.init(self._job.model_seed)
        return b"".join(packing.raw(layout.view(layout.flatten(pick(model, layout)))))

    def _follow(self, offer: Offer, way: Difference) -> bool:
        """Take the difference if it is shorter and starts from what is held; False: it is of no use."""
        if way.blob.bytes >= offer.model.bytes:
            return False
        start = self._held(way.base, ".model")
        if way.base == 1 and start is None:
            start = self._first()
            self._keep(1, start)
        teller = self._held(way.told_by, ".frame") if way.told_by else b""
        if start is None or teller is None:
            return False
        follower = Follower(self._job.codec_down, self._job.layout, self._job.model_seed)
        try:
            frame = self._fetch(way.blob)
            if teller:
                told = self._job.codec_down.absolute(frame[DIGEST:], teller[DIGEST:], self._job.layout)
                frame = frame[:DIGEST] + told
            follower.snapshot(way.base, packing.read([self._job.layout], start)[0])
            follower.follow(offer.version, way.base, frame)
            data = b"".join(packing.raw(follower.model))
            if _digest(data) != offer.model.sha256:
                raise WireError("it leads to another model")
        except (WireError, Refused) as error:
            log.warning("difference to version %d is of no use: %s", offer.version, error)
            return False
        if way.base == 1:
            write_file(self._path(offer.version, offer.model.sha256, ".frame"), frame, lasting=False)
        self._keep(offer.version, data)
        return True

    def _keep(self, version: int, data: bytes, sha256: str = "") -> None:
        write_file(self._path(version, sha256 or _digest(data)), data, lasting=False)

    def _path(self, version: int, sha256: str, suffix: str = ".model") -> Path:
        return self._folder / f"{version:016d}-{sha256}{suffix}"

    def _held(self, version: int, suffix: str) -> bytes | None:
        newest = self._newest(version, suffix)
        return (_bytes(newest) or None) if newest is not None else None

    def _newest(self, version: int, suffix: str) -> Path | None:
        """The file of a version that came last: an aggregator may say more than once what it is."""
        found = self._folder.glob(f"{version:016d}-*{suffix}")
        return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def _bytes(path: Path) -> bytes:
    """The bytes of a file; none, and the file is removed, if it is damaged beyond reading."""
    try:
        return read_lasting(path)
    except Damaged as error:
        log.warning("%s", error)
        remove(path)
        return b""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
