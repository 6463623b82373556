"""What a node does with a parcel, and what it keeps until the next one comes.

Flower makes a new process for every message, so everything that a client remembers goes into bytes that
Flower holds for the node while the run goes on: memory, updates that wait for a verdict and, while a secure
session is under way, its machine with its secrets. They are decoded by nothing that reads from the network.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from fedkit import fields, jobfile, packing, wire
from fedkit.clientstore import MemoryStore
from fedkit.errors import ClientFailed, WireError
from fedkit.federation import Request, Verdict
from fedkit.job import Job
from fedkit.messages import ClientId, Failure, Key, Task
from fedkit.participant import Answer, Participant
from fedkit.secagg.identity import Identity, SigningKey
from fedkit.secagg.memory import MemorySessions, Sessions
from fedkit.secagg.messages import FromServer
from fedkit.secureclient import Resting
from fedkit.tensors import Memory
from fedkit_clients.flower.parcel import Row, only, pack, unpack
from fedkit_clients.flower.setup import Setup

log = logging.getLogger("fedkit.flower")

DOWN = ("job", "kept", "verdict", "request")
UP = ("kept", "reply")
_KEPT = ("kept", "store", "pending", "resting", "sessions", "identity")


@dataclass
class Kept:
    """What a node keeps between messages. turn: how many parcels it has answered."""

    turn: int = 0
    job: str = ""
    store: MemoryStore = field(default_factory=MemoryStore)
    pending: dict[Key, dict[str, Memory]] = field(default_factory=dict)
    resting: list[Resting] = field(default_factory=list)
    sessions: dict[ClientId, MemorySessions] = field(default_factory=dict)
    identities: dict[ClientId, SigningKey] = field(default_factory=dict)

    @classmethod
    def read(cls, data: bytes) -> Kept:
        """What `write` wrote, or nothing yet. WireError: something else."""
        made = cls()
        if not data:
            return made
        rows = unpack(data, *_KEPT)
        turn, job = fields.items(list(only(rows, "kept").fields), "kept", 2)
        made.turn, made.job = fields.integer(turn, "turn"), fields.text(job, "job")
        for row in rows:
            made._take(row)
        return made

    def _take(self, row: Row) -> None:
        match row:
            case Row("store", (), data):
                self.store.load(packing.unpack(data))
            case Row("pending", (key, str(stream)), data):
                self.pending.setdefault(wire.read_key(key), {})[stream] = packing.unpack(data)
            case Row("resting", (int(attempt), int(length)), data):
                task = wire.decode(data[:length])
                if not isinstance(task, Task):
                    raise WireError("what rests is no task")
                self.resting.append(Resting(task, attempt, data[length:]))
            case Row("sessions", (str(client),), data):
                self.sessions.setdefault(client, MemorySessions()).load(data)
            case Row("identity", (str(client),), data):
                self.identities[client] = SigningKey(data)
            case Row("kept"):
                pass
            case _:
                raise WireError(f"a row {row.kind!r} with other fields than it has")

    def write(self) -> bytes:
        """What `read` reads."""
        rows = [Row("kept", (self.turn, self.job))]
        if store := self.store.save():
            rows.append(Row("store", (), packing.pack(store)))
        for key, memories in self.pending.items():
            rows += [Row("pending", (wire.key_row(key), s), packing.pack(m)) for s, m in memories.items()]
        for one in self.resting:
            task = wire.encode(one.task)
            rows.append(Row("resting", (one.attempt, len(task)), task + one.machine))
        rows += [Row("sessions", (client,), one.save()) for client, one in sorted(self.sessions.items())]
        rows += [Row("identity", (client,), key.secret) for client, key in sorted(self.identities.items())]
        return pack(rows)

    def identity(self, client: ClientId) -> Identity:
        """A key that nobody vouches for, the same for the whole run."""
        return Identity(client, self.identities.setdefault(client, SigningKey.new()))

    def remembers(self, client: ClientId) -> Sessions:
        """What the client remembers of sessions."""
        return self.sessions.setdefault(client, MemorySessions())


class Answered(NamedTuple):
    """The parcel that goes back, and what is kept from now on."""

    parcel: bytes
    state: bytes


def answer(data: bytes, state: bytes, setup: Setup) -> Answered:
    """Do what a parcel asks. WireError: it is not one for a node."""
    rows = unpack(data, *DOWN)
    requests = [_request(row) for row in rows if row.kind == "request"]
    kept = Kept.read(state)
    try:
        job = jobfile.decode(only(rows, "job").data)
        setup.demand(job)
    except ClientFailed as error:
        return _reply(kept, [_failure(request.key, error) for request in requests], state)
    if kept.job != job.id:
        kept = Kept(turn=kept.turn, job=job.id)
    stale = {row.fields for row in rows if row.kind == "kept"} - {(kept.turn,)}
    kept.turn += 1
    if stale:
        log.error("this node remembers less than it has answered: its clients start from what is left")
        lost = ClientFailed("memory_lost", "", "Flower has handed out an older state of this node")
        return _reply(kept, [_failure(request.key, lost) for request in requests])
    participant = _participant(job, setup, kept)
    for key, verdict in map(_verdict, (row for row in rows if row.kind == "verdict")):
        participant.settle(key, verdict)
    replies = [reply for request in requests for reply in _handle(participant, request, setup.clients)]
    kept.pending = {key: dict(memories) for key, memories in participant.pending().items()}
    kept.resting = participant.secure.rest()
    return _reply(kept, replies)


def _reply(kept: Kept, replies: list[Answer], state: bytes | None = None) -> Answered:
    rows = [Row("kept", (kept.turn,)), *(Row("reply", (), wire.encode(reply)) for reply in replies)]
    return Answered(pack(rows), kept.write() if state is None else state)


def _participant(job: Job, setup: Setup, kept: Kept) -> Participant:
    credentials = setup.credentials(job, kept.identity, kept.remembers)
    made = Participant(job, setup.workload, kept.store, credentials)
    made.restore(kept.pending)
    made.secure.wake(kept.resting)
    return made


def _handle(participant: Participant, request: Request, clients: Collection[ClientId]) -> list[Answer]:
    if request.key.client not in clients:
        elsewhere = ClientFailed("no_data", "", f"this node is not client {request.key.client!r}")
        return [_failure(request.key, elsewhere)]
    replies = list(participant.handle(request))
    for reply in replies:
        if isinstance(reply, Failure):
            log.error("round %d failed (%s):\n%s", reply.key.round + 1, reply.code, reply.detail)
    return replies


def _failure(key: Key, error: ClientFailed) -> Failure:
    log.error("round %d failed: %s", key.round + 1, error)
    return Failure(key, error.code, type(error).__name__, error.subject)


def _request(row: Row) -> Request:
    found = wire.decode(row.data)
    if not isinstance(found, Task | FromServer):
        raise WireError(f"a {type(found).__name__} where a task was expected")
    return found


def _verdict(row: Row) -> tuple[Key, Verdict]:
    key, verdict = fields.items(list(row.fields), "verdict", 2)
    try:
        return wire.read_key(key), Verdict(fields.text(verdict, "verdict"))
    except ValueError:
        raise WireError(f"{verdict!r} is no verdict") from None
