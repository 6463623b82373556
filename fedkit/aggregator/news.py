"""What a device is told when it asks: verdicts, tasks, messages of sessions (docs/edge-protocol.md)."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from fedkit import wire
from fedkit.aggregator.blobs import Blobs
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.leases import Lease, Leases
from fedkit.aggregator.registry import Registry
from fedkit.aggregator.releases import Releases
from fedkit.aggregator.tellings import Tellings
from fedkit.messages import ClientId

SHORT, IN_ALL = 1 << 14, 1 << 17
"""Most bytes of a frame that comes with the answer, and of all of them in one answer."""


class News:
    """Makes the answers to polls. lease: seconds until a task is offered again."""

    def __init__(
        self, journal: Journal, registry: Registry, blobs: Blobs, leases: Leases, lease: float
    ) -> None:
        self._journal, self._registry = journal, registry
        self._blobs, self._leases, self._lease = blobs, leases, lease
        self._releases = Releases(journal, blobs)
        self._tellings = Tellings(journal, blobs, self._releases)

    def read(self, client: ClientId, held: int, first: bool = True) -> dict[str, object]:
        """What is new for this client, whose tasks are now leased.

        held: the version whose difference it holds. first: it has just asked, so what it was offered before
        and has not acknowledged was lost on the way.
        """
        verdicts, leases = self._leases.news(client, 0.0 if first else self._lease)
        frames = self._frames(leases)
        offers = [self._offer(lease, frames, held) for lease in leases if lease.version]
        return {
            "ca": self._registry.trust.next_ca.hex(),
            "last": self._last(),
            "messages": [_told(one, frames) for one in leases if not one.version],
            "now": self._journal.now(),
            "settled": [[*wire.key_row(key), str(verdict)] for key, verdict in verdicts],
            "tasks": [offer for offer in offers if offer is not None],
        }

    def _last(self) -> dict[str, object] | None:
        """The model of a run that is over: no task brings it."""
        last = self._releases.last()
        if last is None:
            return None
        return {"bytes": last.bytes, "sha256": last.model, "version": last.version}

    def _offer(self, lease: Lease, frames: dict[int, str], held: int) -> dict[str, object] | None:
        """A leased task as the client is told of it; None while its model is not published."""
        release = self._releases.find(lease.version)
        if release is None:
            return None
        release = self._tellings.shortest(release, held)
        difference: dict[str, object] | None = None
        if release.frame is not None:
            difference = {"base": release.base, "told_by": release.told_by, "sha256": release.frame}
            difference["bytes"] = release.frame_bytes
        return {
            **_told(lease, frames),
            "id": lease.id,
            "lease": self._lease,
            "version": lease.version,
            "model": {"sha256": release.model, "bytes": release.bytes},
            "difference": difference,
        }

    def _frames(self, leases: Sequence[Lease]) -> dict[int, str]:
        """The short frames in base64, by the ids of their leases: they need not be asked for."""
        found, left = dict[int, str](), IN_ALL
        for lease in leases:
            data = self._blobs.read(lease.frame) if lease.bytes <= min(SHORT, left) else None
            if data is not None:
                found[lease.id] = base64.b64encode(data).decode("ascii")
                left -= len(data)
        return found


def _told(lease: Lease, frames: dict[int, str]) -> dict[str, object]:
    return {"bytes": lease.bytes, "data": frames.get(lease.id), "frame": lease.frame}
