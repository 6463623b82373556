"""THE seam: who the clients are and how to reach them.

Simulation, fedkit's own deployment and Flower differ in nothing else. A round is: send tasks,
receive arrivals until a time on the federation's own clock, settle verdicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from fedkit.aggregate import WeightedSum
from fedkit.downlink import Release
from fedkit.job import Job
from fedkit.messages import ClientId, EncodedUpdate, Failure, Key, Kind, Task
from fedkit.secagg.identity import Random, SigningKey, Trust
from fedkit.secagg.messages import FromClient, FromServer
from fedkit.tensors import State


@dataclass(frozen=True)
class Partial:
    """A WeightedSum that a worker has merged already; `members` are the keys inside it."""

    key: Key
    total: WeightedSum
    members: tuple[Key, ...]


Request: TypeAlias = Task | FromServer
Reply: TypeAlias = EncodedUpdate | Partial | Failure | FromClient


@dataclass(frozen=True, slots=True)
class Arrival:
    """A reply and when it came, in seconds on the federation's clock."""

    key: Key
    at: float
    reply: Reply


class Verdict(StrEnum):
    """What became of a reply; clients commit their memory on `counted` and else roll back."""

    counted = "counted"
    late = "late"
    refused = "refused"
    lost = "lost"
    unwanted = "unwanted"


@dataclass(frozen=True, slots=True)
class Standing:
    """How an unresolved request stands, as far as the federation can tell.

    alive: the client is known to be at work on it. note: how far it is, or what is known.
    """

    alive: bool
    note: str


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that clients have sent (up) and received (down) since the run began."""

    up: int = 0
    down: int = 0

    def __sub__(self, before: Traffic) -> Traffic:
        return Traffic(self.up - before.up, self.down - before.down)


class Federation(Protocol):
    """All that a run knows about its clients."""

    def open(self, job: Job) -> None:
        """Announce the job. Called once per process, before anything else."""
        ...

    def publish(self, release: Release) -> None:
        """A new version of the model; tasks that name it follow. Idempotent by version."""
        ...

    def clients(self) -> Sequence[ClientId]:
        """The clients that can be reached now, sorted."""
        ...

    def send(self, requests: Iterable[Request]) -> None:
        """Hand over requests. Idempotent by key; a client may hold several."""
        ...

    def receive(self, until: float, want: int | None = None) -> Iterator[Arrival]:
        """Arrivals in the order in which they come.

        Ends when all that was sent is resolved, else at `until`; with nothing outstanding it lets
        time pass until then. `want` is a hint: the caller stops after that many good replies. The
        caller may stop early; the clock then stands at the last arrival.
        """
        ...

    def outstanding(self) -> Mapping[Key, Standing]:
        """Requests that have no reply and no verdict yet, and how they stand."""
        ...

    def settle(self, verdicts: Mapping[Key, Verdict]) -> None:
        """Close these keys; idempotent. Called after the checkpoint, for the requests of a secure session
        as soon as its stage is over.
        """
        ...

    def now(self) -> float:
        """Seconds: virtual in simulation, UTC when deployed."""
        ...

    def traffic(self) -> Traffic:
        """Bytes so far."""
        ...

    def save(self) -> State:
        """What `load` needs to continue; empty where a journal is durable by itself."""
        ...

    def load(self, state: State) -> None:
        """Continue from `save`."""
        ...


@dataclass(frozen=True)
class Witness:
    """What a simulation saw of a secure session, and a real server never would.

    client_seconds: CPU that its clients spent on the protocol. packed: vector and tail of each client
    before they were masked; empty unless the job asks to verify.
    """

    client_seconds: float
    packed: Mapping[ClientId, tuple[NDArray[np.unsignedinteger[Any]], NDArray[np.uint64]]]


@dataclass(frozen=True)
class ServerTrust:
    """What the server of a federation with identities has for secure sessions.

    signer: signs headers; its public key is `trust.server`. random: where the secrets of a session come
    from, by kind, round and attempt: the system's source, or in simulation a seeded one.
    """

    trust: Trust
    signer: SigningKey
    random: Callable[[Kind, int, int], Random]


class Trusting(Protocol):
    """A federation whose clients have identities; any other can do with `honest_server` only."""

    def trust(self) -> ServerTrust | None:
        """None where there are no identities after all."""
        ...


class Witnessing(Protocol):
    """A federation of which secagg.verify may be asked."""

    def witness(self, kind: Kind, round: int, attempt: int) -> Witness:
        """What was seen of that session; forgotten once it was asked for."""
        ...


class Mending(Protocol):
    """A federation whose devices can be repaired or revoked while the run goes on: what clients say ends no
    run of it at once, and it waits after each round that failed.
    """

    def pause(self, failures: int, reason: str) -> None:
        """Wait after so many failed rounds in a row, longer after each; the reason is that of the last."""
        ...


class Closing(Protocol):
    """A federation that has something to let go of when the run is over, however it ends."""

    def close(self) -> None:
        """Let go of it."""
        ...


@contextmanager
def closing(federation: Federation) -> Iterator[None]:
    """Close it at the end, if it can be closed."""
    try:
        yield
    finally:
        if hasattr(federation, "close"):
            cast("Closing", federation).close()


def mends(federation: Federation) -> bool:
    """Whether it is one of those."""
    return hasattr(federation, "pause")


def pause(federation: Federation, failures: int, reason: str) -> None:
    """Let it wait after so many failed rounds in a row, if it is one of those."""
    if failures and mends(federation):
        cast("Mending", federation).pause(failures, reason)


def server_trust(federation: Federation) -> ServerTrust | None:
    """Its identities, if it has any."""
    ask = getattr(federation, "trust", None)
    return cast("Trusting", federation).trust() if ask is not None else None


def witness(federation: Federation, kind: Kind, round: int, attempt: int) -> Witness | None:
    """What it saw of a secure session, if it is a simulation."""
    ask = getattr(federation, "witness", None)
    return cast("Witnessing", federation).witness(kind, round, attempt) if ask is not None else None


@dataclass(frozen=True)
class RoundPolicy:
    """How a round is made up and how it ends.

    cohort: clients whose updates are wanted: a count, or a fraction in (0, 1) of those reachable;
    None takes all. over_select: invite that many times more; the round ends when `cohort` of them
    have been counted. quorum: below so many counted replies the round has failed: a count, or a
    fraction of the cohort. deadline: seconds from the round's start. late: "drop" forgets a reply
    that misses the deadline; "carry" adds it to the round in which it comes, as an update of its
    own with weight times strategy.weigh(age), for up to carry_rounds rounds; it counts towards that
    round's quorum, so a federation in which every reply is late still learns. max_failures: failed
    rounds in a row that stop the run.
    """

    cohort: int | float | None = None
    over_select: float = 1.0
    quorum: int | float = 1
    deadline: float = 600.0
    late: Literal["drop", "carry"] = "drop"
    carry_rounds: int = 3
    max_failures: int = 3


@dataclass(frozen=True)
class Plan:
    """One round, decided and made durable before its first task is sent.

    cohort: invited clients, sorted. want: how many of them are to be counted. carried: keys of
    earlier rounds that may still arrive, with the time at which each expires.
    """

    round: int
    start: float
    deadline: float
    cohort: tuple[ClientId, ...]
    want: int
    quorum: int
    seeds: Mapping[ClientId, int]
    carried: Mapping[Key, float] = field(default_factory=dict)
