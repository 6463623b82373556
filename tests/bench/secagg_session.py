"""A whole secure sum: a server and all of its clients."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection

import numpy as np

from fedkit.secagg.client import Expected, MemorySessions, SecAggClient
from fedkit.secagg.graph import neighbours
from fedkit.secagg.header import Encoding, Header
from fedkit.secagg.identity import AgreementKey, Floors, Identity, SigningKey, Trust
from fedkit.secagg.messages import Stage
from fedkit.secagg.parameters import Parameters, Policy, choose
from fedkit.secagg.primitives.masks import Lanes, Mask, add_masks
from fedkit.secagg.primitives.suite import Suite
from fedkit.secagg.server import SecAggServer

WATCHED = 5  # clients of a sum whose time is taken
BATCH = 100  # messages that queue at the server, so that its code is in its caches as on a busy day
TAIL = 6
MASKS = 30
MODEL = bytes(32)
Answer = Callable[[str, Stage, bytes], bytes | None]
"""Client, stage and body in; its answer out, None if it is gone."""


@dataclass(frozen=True)
class Shape:
    """A sum. lost: the share of clients that share, and then send no vector. explicit: k and t by hand."""

    clients: int
    size: int
    width: int = 32
    lost: float = 0.1
    explicit: tuple[int, int] | None = None
    corrupt: float = 0.05

    @property
    def policy(self) -> Policy:
        # with the default of 80, 28 neighbours of 100 are too few for 30 % lost, and the floors are of k = 78
        return Policy(corrupt=self.corrupt, dropout=max(self.lost, 0.1), sigma=40)

    @property
    def names(self) -> list[str]:
        return [f"client-{number:04}" for number in range(self.clients)]

    @property
    def leaving(self) -> frozenset[str]:
        """Every tenth, or so: whom the server waits for in vain."""
        count = round(self.clients * self.lost)
        return frozenset(self.names[at * self.clients // count] for at in range(count))

    @property
    def parameters(self) -> Parameters:
        return Session(self).header.parameters(self.clients)


@dataclass
class Watch:
    """CPU seconds of all threads that were spent inside of `with watch():`, and those on the clock."""

    seconds: float = 0.0
    wall: float = 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        before, began = time.process_time(), time.perf_counter()
        yield
        self.seconds += time.process_time() - before
        self.wall += time.perf_counter() - began


@dataclass
class Found:
    """What was measured: CPU seconds of the server, of clients, of one mask of that size; the server's on the
    clock; bytes up and down of one client."""

    server: list[float] = field(default_factory=list)
    client: list[float] = field(default_factory=list)
    mask: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    up: int = 0
    down: int = 0


@dataclass
class Session:
    """Keys, header, server and clients of one sum. threads: of the server."""

    shape: Shape
    threads: int = 1
    agreement: AgreementKey = field(default_factory=AgreementKey.new)
    signer: SigningKey = field(default_factory=SigningKey.new)

    @cached_property
    def header(self) -> Header:
        shape = self.shape
        return Header(
            suite=Suite.AES,
            sid=os.urandom(32),
            job="bench",
            round=0,
            kind="train",
            attempt=0,
            model=MODEL,
            encoding=Encoding(shape.size, shape.width, TAIL, "bench"),
            policy=shape.policy,
            clients=shape.clients,
            explicit=shape.explicit,
            deadlines=(1.0, 2.0, 3.0, 4.0, 5.0),
            identities="roster",
            server=self.agreement.public,
        )

    @cached_property
    def keys(self) -> Mapping[str, SigningKey]:
        return {name: SigningKey.new() for name in self.shape.names}

    @cached_property
    def trust(self) -> Trust:
        roster = {name: key.public for name, key in self.keys.items()}
        return Trust.of_roster(roster, self.signer.public)

    def server(self) -> SecAggServer:
        return SecAggServer(
            self.header,
            self.trust,
            self.shape.names,
            signer=self.signer,
            agreement=self.agreement,
            threads=self.threads,
        )

    def client(self, name: str) -> SecAggClient:
        identity = Identity(name, self.keys[name])
        return SecAggClient(
            identity, self.trust, Floors(self.shape.policy, self.shape.explicit), MemorySessions()
        )

    @property
    def expected(self) -> Expected:
        return Expected("bench", 0, "train", 0, MODEL, self.header.encoding)


class Cohort:
    """All clients, answering as they are asked. Of some the time is taken, of one the bytes."""

    def __init__(self, session: Session) -> None:
        self.session, self.expected = session, session.expected
        self.clients = {name: session.client(name) for name in session.shape.names}
        staying = sorted(self.clients.keys() - session.shape.leaving)
        self.watches = {staying[at * len(staying) // WATCHED]: Watch() for at in range(WATCHED)}
        self.up = self.down = 0

    def answer(self, name: str, stage: Stage, body: bytes) -> bytes | None:
        """What this client says to a message; None if it is gone."""
        shape = self.session.shape
        if stage is Stage.mask and name in shape.leaving:
            return None
        vector = np.full(shape.size if stage is Stage.mask else 0, 1, f"u{shape.width // 8}")
        if name in self.watches:  # in a process of its own it would know neither
            neighbours.cache_clear()
            choose.cache_clear()
        with self.watches.get(name, Watch())():
            made = self._step(self.clients[name], stage, body, vector)
        if name == next(iter(self.watches)):
            self.up, self.down = self.up + len(made), self.down + len(body)
        return made

    def _step(self, client: SecAggClient, stage: Stage, body: bytes, vector: Lanes) -> bytes:
        match stage:
            case Stage.advertise:
                return client.advertise(body, self.expected)
            case Stage.share:
                return client.share(body)
            case Stage.mask:
                client.accept(body)
                return client.mask(vector, np.ones(TAIL, np.uint64))
            case Stage.agree:
                return client.agree(body)
            case Stage.unmask:
                return client.unmask(body)


class Remote:
    """A cohort in a process of its own."""

    def __init__(self, cohort: Cohort) -> None:
        self._here, there = Pipe()
        self._process = get_context("fork").Process(target=_answer_all, args=(cohort, there), daemon=True)
        self._process.start()

    def answer(self, name: str, stage: Stage, body: bytes) -> bytes | None:
        """What this client says to a message; None if it is gone."""
        self._here.send((name, stage, body))
        return self._here.recv_bytes() or None

    def end(self) -> None:
        """Let the process go."""
        self._here.send(None)
        self._process.join()


def _answer_all(cohort: Cohort, channel: Connection) -> None:
    while (request := channel.recv()) is not None:
        channel.send_bytes(cohort.answer(*request) or b"")


def serve(
    session: Session, answer: Answer, watch: Callable[[], AbstractContextManager[None]], batch: int
) -> None:
    """One whole sum; all that the server does is done inside of `with watch():`. ValueError: it is wrong.

    batch: messages that wait for the server at a time.
    """
    with watch():
        server = session.server()
    while not server.done:
        stage = server.stage
        with watch():
            outbox = server.outbox()
        names = list(outbox)
        for at in range(0, len(names), batch):
            some = names[at : at + batch]
            with watch():
                bodies = [outbox[name] for name in some]
            answers = [answer(name, stage, body) for name, body in zip(some, bodies, strict=True)]
            with watch():
                for name, made in zip(some, answers, strict=True):
                    if made is not None:
                        server.receive(name, made)
            bodies, answers, made = [], [], None  # or they would be there beside the next ones
        with watch():
            server.advance()
    check(session.shape, server)


def mask_seconds(shape: Shape) -> float:
    """CPU seconds of one mask of a vector of this shape, as one of many, on one thread: how fast the machine
    is at the moment."""
    vector = np.zeros(shape.size, f"u{shape.width // 8}")
    masks = [Mask(os.urandom(Suite.AES.mask_bytes), 1) for _ in range(MASKS)]
    watch = Watch()
    with watch():
        add_masks((np.zeros(TAIL, np.uint64), vector), masks, Suite.AES)
    return watch.seconds / MASKS


def check(shape: Shape, server: SecAggServer) -> None:
    """Everyone who stayed counts one in each lane."""
    made, staying = server.result(), shape.clients - len(shape.leaving)
    right = (made.vector == staying % 2**shape.width).all() and (made.tail == staying).all()
    if not right or len(made.members) != staying:
        raise ValueError(f"the sum of {shape} is wrong")
