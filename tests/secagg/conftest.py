"""One server and n clients in memory; anything between them can be lost, changed, repeated or reordered."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from fedkit.errors import PeerRefused, ProtocolRefused, SecAggAborted
from fedkit.messages import ClientId, Kind
from fedkit.secagg import rules
from fedkit.secagg.client import Expected, MemorySessions, SecAggClient
from fedkit.secagg.header import Encoding, Header, Identities
from fedkit.secagg.identity import AgreementKey, Authority, Floors, Identity, SigningKey, Trust
from fedkit.secagg.messages import Stage
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.primitives.masks import Lanes
from fedkit.secagg.primitives.suite import Suite
from fedkit.secagg.server import SecAggServer, SecureSum
from fedkit.seeds import Stream, stream

Tamper = Callable[[Stage, ClientId, bytes], bytes | None]
"""Stage, client and body in; the body that arrives out, None if nothing does."""

Lie: TypeAlias = Callable[["Rehearsal", ClientId, bytes], bytes]
"""What a client is told in place of a body."""

HONEST = Policy(mode=Mode.HONEST_SERVER)


def untouched(stage: Stage, client: ClientId, body: bytes) -> bytes | None:
    return body


def sorted_order(clients: Sequence[ClientId]) -> Sequence[ClientId]:
    return clients


@dataclass
class Tally:
    """Of one test: sessions that came to an end, and sessions whose clients remembered others."""

    ended: int = 0
    followed: int = 0


@dataclass
class Rehearsal:
    """A session of `n` clients. lose: clients that answer nothing from a stage on.

    down, up: what happens to messages from and to the server. order: in which clients answer. model: what
    all of them train. sessions: what clients remember, to be shared by several rehearsals.
    """

    n: int
    policy: Policy = field(default_factory=Policy)
    encoding: Encoding = field(default_factory=lambda: Encoding(40, 32, 3, "test"))
    identities: Identities = "roster"
    explicit: tuple[int, int] | None = None
    suite: Suite = Suite.AES
    seed: int = 0
    round: int = 1
    attempt: int = 0
    kind: Kind = "train"
    model: bytes = b"model"
    floors: Floors | None = None
    threads: int = 1
    lose: Mapping[ClientId, Stage] = field(default_factory=dict)
    down: Tamper = untouched
    up: Tamper = untouched
    order: Callable[[Sequence[ClientId]], Sequence[ClientId]] = sorted_order
    sessions: dict[ClientId, MemorySessions] = field(default_factory=dict)
    tally: ClassVar[Tally] = Tally()

    def __post_init__(self) -> None:
        self.tally.followed += bool(self.sessions)
        self.names: list[ClientId] = [f"c{i:03}" for i in range(self.n)]
        self.signer = SigningKey(stream(self.seed, "server").bytes(32))
        self.authority = Authority(SigningKey(stream(self.seed, "ca").bytes(32)))
        self.keys = {name: SigningKey(stream(self.seed, "identity", name).bytes(32)) for name in self.names}
        self.trust = self.make_trust()
        self.agreement = AgreementKey(self.stream("agreement").bytes(32))
        self.header = self.make_header()
        self.server = SecAggServer(
            self.header,
            self.trust,
            self.names,
            signer=self.signer if self.trust.server else None,
            agreement=self.agreement,
            threads=self.threads,
        )
        self.clients = {name: self.make_client(name) for name in self.names}
        self.vectors = {name: self.make_lanes(name, "vector") for name in self.names}
        self.tails = {name: self.make_tail(name) for name in self.names}
        self.lie: tuple[Stage, Lie] | None = None
        self.refused: dict[ClientId, ProtocolRefused] = {}
        self.peer_refused: list[PeerRefused] = []
        self.seen: dict[tuple[Stage, ClientId], bytes] = {}  # what clients sent

    def stream(self, purpose: str, *path: str) -> Stream:
        return stream(self.seed, purpose, self.round, self.attempt, *path)

    def make_trust(self) -> Trust:
        if self.identities == "none":
            return Trust.none()
        if self.identities == "ca":
            return Trust.of_ca(self.authority.key.public, self.signer.public)
        return Trust.of_roster({name: key.public for name, key in self.keys.items()}, self.signer.public)

    def make_header(self) -> Header:
        return Header(
            suite=self.suite,
            sid=self.stream("sid").bytes(32),
            job="job",
            round=self.round,
            kind=self.kind,
            attempt=self.attempt,
            model=hashlib.sha256(self.model).digest(),
            encoding=self.encoding,
            policy=self.policy,
            clients=max(self.n, 1),
            explicit=self.explicit,
            deadlines=(1.0, 2.0, 3.0, 4.0, 5.0),
            identities=self.identities,
            server=self.agreement.public,
        )

    def expected(self) -> Expected:
        """What an honest client expects."""
        h = self.header
        return Expected(h.job, h.round, h.kind, h.attempt, h.model, h.encoding)

    def identity(self, name: ClientId) -> Identity:
        key = self.keys[name]
        voucher = self.authority.certify(name, key.public) if self.identities == "ca" else None
        return Identity(name, key, voucher)

    def make_client(self, name: ClientId) -> SecAggClient:
        return SecAggClient(
            self.identity(name),
            self.trust,
            self.floors or Floors(self.policy, self.explicit),
            self.sessions.setdefault(name, MemorySessions()),
            random=self.stream("client", name).bytes,
            threads=self.threads,
        )

    def make_lanes(self, name: ClientId, purpose: str) -> Lanes:
        data = stream(self.seed, purpose, name).bytes(self.encoding.vector_bytes)
        return np.frombuffer(data, f"u{self.encoding.width // 8}").copy()

    def make_tail(self, name: ClientId) -> NDArray[np.uint64]:
        tail = stream(self.seed, "tail", name).uint64(self.encoding.tail).copy()
        tail[0] = 1
        return tail

    def answer(self, stage: Stage, name: ClientId, body: bytes) -> bytes:
        """What a client says to a message; ProtocolRefused comes through."""
        client = self.clients[name]
        match stage:
            case Stage.advertise:
                return client.advertise(body, self.expected())
            case Stage.share:
                return client.share(body)
            case Stage.mask:
                client.accept(body)
                return client.mask(self.vectors[name].copy(), self.tails[name].copy())
            case Stage.agree:
                return client.agree(body)
            case Stage.unmask:
                return client.unmask(body)

    def lost(self, name: ClientId, stage: Stage) -> bool:
        order = list(Stage)
        return name in self.lose and order.index(self.lose[name]) <= order.index(stage)

    def ask(self, name: ClientId, body: bytes) -> bytes | None:
        """One message to a client and back, with all that can happen to both; None if nothing comes."""
        stage = self.server.stage
        if self.lost(name, stage) or name in self.refused:
            return None
        arrived = self.down(stage, name, body)
        if arrived is None:
            return None
        try:
            answer = self.answer(stage, name, arrived)
        except ProtocolRefused as error:
            self.refused[name] = error
            self.server.drop(name)
            return None
        self.seen[stage, name] = answer
        return self.up(stage, name, answer)

    def deliver(self, name: ClientId, answer: bytes) -> bool | None:
        """An answer to the server; None if it is refused."""
        try:
            return self.server.receive(name, answer)
        except PeerRefused as error:
            self.peer_refused.append(error)
            return None

    def step(self) -> None:
        """One stage, and its end."""
        outbox = self.server.outbox()
        for name in self.order(sorted(outbox)):
            answer = self.ask(name, outbox[name])
            if answer is not None:
                self.deliver(name, answer)
        try:
            self.server.advance()
        finally:
            self.tally.ended += self.server._over

    def until(self, stage: Stage) -> Rehearsal:
        """All stages before this one."""
        while self.server.stage is not stage:
            self.step()
        return self

    def run(self) -> SecureSum:
        """The whole session."""
        while not self.server.done:
            self.step()
        return self.server.result()

    def next(self) -> Rehearsal:
        """The next round of the same clients, with what they remember, and another model."""
        model = f"after round {self.round}".encode()
        return replace(self, round=self.round + 1, sessions=self.sessions, model=model)

    def rounds(self, count: int = 2) -> Iterator[Rehearsal]:
        """This round and those after it; each is made when the one before is over."""
        session = self
        yield session
        for _ in range(count - 1):
            session = session.next()
            yield session

    def lying(self, stage: Stage, lie: Lie) -> Rehearsal:
        """The server tells everybody this lie at this stage; what clients expect is the truth before it."""
        truth, self.lie = self.expected(), (stage, lie)
        self.expected = lambda: truth  # type: ignore[method-assign]
        self.down = lambda at, name, body: lie(self, name, body) if at is stage else body
        return self

    def refusals(self) -> set[str]:
        """Two rounds, with the same lie in both; the rules by which clients refuse, each of them.

        The third one, in which they are told nothing but the truth, has a sum.
        """
        rules, again = self.refusals_once(), self.next()
        again = again.lying(*self.lie) if self.lie else again
        assert again.refusals_once() == rules
        assert not self.lie or again.goes_on()
        return rules

    def refusals_once(self) -> set[str]:
        """The same of this round alone."""
        with suppress(SecAggAborted):
            self.run()
        assert set(self.refused) == set(self.names) - set(self.lose)
        return {error.rule for error in self.refused.values()}

    def goes_on(self) -> bool:
        """Whether the same clients sum the next round, told nothing but the truth."""
        after = replace(self.next(), down=untouched, up=untouched, lose={})
        return after.right(after.run()) and not after.refused

    def answered(self, stage: Stage) -> bool:
        """The whole session; whether everybody answers this stage."""
        with suppress(SecAggAborted):
            self.run()
        return all((stage, name) in self.seen for name in self.names if not self.lost(name, stage))

    def sums(self, members: Sequence[ClientId]) -> tuple[Lanes, NDArray[np.uint64]]:
        """The reference: what the sum over `members` should be."""
        vector: Lanes = np.zeros(self.encoding.words, f"u{self.encoding.width // 8}")
        tail = np.zeros(self.encoding.tail, np.uint64)
        for name in members:
            vector += self.vectors[name]
            tail += self.tails[name]
        return vector, tail

    def right(self, found: SecureSum) -> bool:
        """Whether a sum is that of its members."""
        vector, tail = self.sums(found.members)
        same_type = found.vector.dtype == vector.dtype and found.tail.dtype == tail.dtype
        return same_type and bool((found.vector == vector).all() and (found.tail == tail).all())


@pytest.fixture
def off(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Switches rules of the client off, by the names of their functions."""

    def switch(*names: str) -> None:
        for name in names:
            monkeypatch.setattr(rules, name, lambda *_, **__: None)

    return switch


@pytest.fixture
def rehearse() -> Iterator[type[Rehearsal]]:
    """The class, as test files do not import each other.

    A test that plays a session to its end plays another one with what clients remember of it.
    """
    tally = Rehearsal.tally = Tally()
    yield Rehearsal
    assert tally.followed or not tally.ended, "and the next round? Use .rounds() or .goes_on()"
