"""The deployed Federation: send and receive write and read the journal that devices are served from."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from fedkit import jobfile, wire
from fedkit.aggregator.blobs import Blobs
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.leases import Leases
from fedkit.aggregator.memory import give_back
from fedkit.aggregator.registry import Registry
from fedkit.aggregator.releases import Releases
from fedkit.aggregator.uploads import Reply, Uploads
from fedkit.downlink import Release
from fedkit.dressing import max_bytes
from fedkit.errors import ConfigError
from fedkit.federation import Arrival, Request, ServerTrust, Standing, Traffic, Verdict
from fedkit.job import Job
from fedkit.messages import ClientId, Key, Kind
from fedkit.secagg.closing import Masked
from fedkit.secagg.identity import RANDOM, SigningKey
from fedkit.secagg.messages import BOX_BYTES
from fedkit.securesum import encoding_of
from fedkit.tensors import State

log = logging.getLogger("fedkit")

REACH = 180.0
"""Seconds for which a client counts as reachable after it was heard of: a poll may last 120."""
RUN_BYTES = 8
"""Of the id of a run, by which devices tell it from another run of the same job."""
_BEAT = 1.0
PAUSE, LONGEST_PAUSE = 1.0, 300.0
"""Seconds after the first failed round, and the most after one of a row: each waits twice as long."""
_REST = 0.25
"""Of what is left of a secure round that a restart cut off, the part to wait for its clients to come back."""
_SESSION = 1 << 16
"""Most bytes of a message of a session beside its vector, and beside 80 for each neighbour."""
_NEIGHBOURS = 1 << 13
"""Most neighbours that are chosen for a client; more can be asked for by hand."""


class EdgeFederation:
    """Clients of a registry, reached through a journal.

    signer: the aggregator's own key, for secure sessions; None: there are none. wait_for: before a round,
    wait until so many clients can be reached, for at most `patience` seconds; then go on with those that
    there are. quorum: without so many a round fails, so they are waited for although they may not come.
    reach: seconds for which a client counts as reachable after a request. first_pause: seconds after a
    failed round. waits: told for whom it waits, and then, by nothing, that it goes on.
    """

    durable = True
    """What was settled or summed before a crash is not done again after it (fedkit/sums.py)."""
    clock = "wall"
    """What `now` is, for those who read the figures."""

    def __init__(
        self,
        journal: Journal,
        registry: Registry,
        *,
        signer: SigningKey | None = None,
        wait_for: int = 1,
        quorum: int = 1,
        patience: float = 600.0,
        reach: float = REACH,
        first_pause: float = PAUSE,
        waits: Callable[[str], None] = lambda _what: None,
    ) -> None:
        self._journal, self._registry = journal, registry
        self._wait_for, self._patience, self._reach = wait_for, patience, reach
        self._quorum = max(1, quorum)
        blobs = Blobs(journal.directory / "blobs")
        self._leases, self._releases = Leases(journal, blobs), Releases(journal, blobs)
        self._uploads = Uploads(journal, journal.directory / "uploads")
        self._signer, self._first_pause, self._waits = signer, first_pause, waits
        self._turn, self._secure = 0, False
        self._beaten = journal.now()
        self._lost: dict[ClientId, float] = {}

    def open(self, job: Job) -> None:
        """Tell devices of the job. ConfigError if the journal is of another one, or none that can be told."""
        known = self._journal.meta("job_id")
        if known not in (None, job.id):
            raise ConfigError(
                f"{self._journal.directory} holds the journal of job {known!r}, this is job {job.id!r}: give "
                "another directory, or serve the scenario it was made for"
            )
        most = wire.OVERHEAD + wire.HEADER_LIMIT + _longest(job)
        run = str(self._journal.meta("run") or secrets.token_hex(RUN_BYTES))
        about: dict[str, str | bytes | float] = {"job_id": job.id, "job": jobfile.encode(job), "run": run}
        self._journal.put(durable=True, most=most, pause=0.0, over=0, **about)
        self._leases.abandon_sessions()
        self._uploads.sweep()
        self._layout, self._secure = job.layout, job.secagg is not None

    def trust(self) -> ServerTrust | None:
        """The identities that secure sessions rest on now."""
        if self._signer is None:
            return None
        return ServerTrust(self._registry.trust, self._signer, lambda *_: RANDOM)

    def publish(self, release: Release) -> None:
        """Make a version of the model a blob."""
        self._releases.publish(release, self._layout)

    def clients(self) -> Sequence[ClientId]:
        """Clients heard of lately, and since they were last lost, or that have a task; waits for enough.

        For secure rounds, whose first exchange is short, only those heard of by this process, task or not.
        """
        end, told = self._patient_until(), -1
        while True:
            ticks, good = self._journal.ticks, self._registry.clients()
            found, wanted = self._present(good), self._wanted(len(good))
            if len(found) >= wanted or self.now() >= end:
                self._waits("")
                return found
            if told != len(found):
                self._waits(f"clients: {len(found)} of {wanted} can be reached")
            if told < 0:
                log.warning("waiting for clients: %d of %d can be reached", len(found), wanted)
            told = len(found)
            self._pause(ticks, end)

    def pause(self, failures: int, reason: str) -> None:
        """Wait; when there are other devices than there were, one was revoked or has come: go on at once."""
        seconds = min(LONGEST_PAUSE, self._first_pause * 2.0 ** min(failures - 1, 16))
        log.warning("round failed, %d in a row: %s; the next in %.0f s", failures, reason, seconds)
        end, there = self.now() + seconds, self._registry.clients()
        self._journal.put(pause=end)
        while self.now() < end and self._registry.clients() == there:
            self._pause(self._journal.ticks, end)
        self._journal.put(pause=0.0)

    def now(self) -> float:
        """Unix time, less the time for which nobody had the journal."""
        return self._journal.now()

    def traffic(self) -> Traffic:
        """Bytes of bodies, both ways."""
        return self._journal.traffic()

    def send(self, requests: Iterable[Request]) -> None:
        """Write tasks, and messages of secure sessions, into the journal; their clients fetch them."""
        self._leases.send(requests)

    def receive(self, until: float, want: int | None = None) -> Iterator[Arrival]:
        """Results in the order in which they were accepted; those of an earlier process come again."""
        began = self.now()
        idle = not self._leases.waiting() and not self._uploads.replies(self._turn)
        while True:
            ticks, over = self._journal.ticks, self.now() >= until
            # asked before the last look at what has come, or a result between the two would be left behind
            over = over or not (idle or self._leases.waiting())
            for reply in self._uploads.replies(self._turn):
                if reply.at > until:
                    break
                self._turn = reply.turn
                yield self._arrival(reply, max(reply.at, min(began, until)))
            if over:
                return
            self._pause(ticks, until)

    def outstanding(self) -> Mapping[Key, Standing]:
        """Tasks without a verdict whose result was not received; alive if heard of since it was leased."""
        return dict(self._leases.open(self._turn))

    def settle(self, verdicts: Mapping[Key, Verdict]) -> None:
        """Close tasks; their clients are told when they ask. What they sent is removed."""
        self._leases.settle(verdicts)
        self._lost |= {key.client: self.now() for key, said in verdicts.items() if said is Verdict.lost}
        self._uploads.sweep()
        self._releases.sweep()

    def save(self) -> State:
        """Nothing: the journal is durable by itself."""
        self._journal.beat()
        return {}

    def load(self, state: State) -> None:
        """Nothing to load."""

    def untold(self) -> int:
        """Verdicts that no client has acknowledged yet."""
        return self._leases.untold()

    def _patient_until(self) -> float:
        """How long to wait for clients: if a secure round is under way, for a part of what it has left."""
        now, over = self.now(), self._leases.over() if self._secure else None
        patience = self._patience if over is None else min(self._patience, _REST * (over - now))
        return now + patience

    def _present(self, good: Sequence[ClientId]) -> list[ClientId]:
        """Of these clients those that a round may ask.

        After a restart a plain task waits until its client is back; a session would lose that client.
        """
        busy = set[ClientId]() if self._secure else self._leases.busy()
        since = max(self.now() - self._reach, self._journal.opened if self._secure else 0.0)
        return [client for client in good if client in busy or self._heard(client, since)]

    def _wanted(self, good: int) -> int:
        """For how many clients to wait: for those that are good, and for some that are to come. Nobody is
        waited for in the place of one that has expired, or until one that was revoked is replaced; but if
        fewer are left than a round needs, for those: without them it fails.
        """
        seats = self._registry.seats()
        return min(self._wait_for, max(self._quorum, good + max(0, seats.free - len(seats.left))))

    def _heard(self, client: ClientId, since: float) -> bool:
        """Whether it was; one that was just lost must come back first, or rounds fail faster than it can."""
        return self._journal.seen(client) > max(since, self._lost.get(client, 0.0))

    def _arrival(self, reply: Reply, at: float) -> Arrival:
        return Arrival(reply.key, at, self._uploads.message(reply))

    def _pause(self, ticks: int, until: float) -> None:
        """Wait for a request, but not for long."""
        now = self.now()
        if now - self._beaten >= _BEAT:
            self._journal.beat()
            give_back()
            self._beaten = now
        self._journal.wait(ticks, min(until - now, _BEAT))


def _longest(job: Job) -> int:
    """Most bytes in the body of a reply."""
    if job.secagg is None:
        return max_bytes(job)
    kinds: tuple[Kind, ...] = ("train", "evaluate")
    made = [encoding_of(job, kind, 0, 1.0) for kind in kinds]
    vector = max(Masked.size(encoding.vector_bytes, encoding.tail) for encoding in made)
    neighbours, _ = job.secagg.explicit or (_NEIGHBOURS, 0)
    return max(vector, BOX_BYTES * neighbours) + _SESSION
