"""A client's half of secure sessions, between the task that announces them and the verdict.

A session runs while the client trains: it advertises keys and shares secrets at once, and trains when its
masked update is asked for (or earlier, by `prepare`). Nothing of an update is kept once it is masked; if the
session aborts and another is opened, the client trains again, which gives the same update.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache

from fedkit.dressing import codec_context
from fedkit.errors import ProtocolRefused
from fedkit.federation import Witness
from fedkit.job import Job
from fedkit.messages import SCALE, ClientId, Key, Kind, Metrics, Task, Update
from fedkit.planning import train_seed
from fedkit.secagg.client import SecAggClient
from fedkit.secagg.identity import RANDOM, Floors, Identity, Random, SigningKey, Trust
from fedkit.secagg.memory import MemorySessions, Sessions
from fedkit.secagg.messages import FromClient, FromServer, Stage
from fedkit.secagg.rules import Expected
from fedkit.securesum import Lanes, Tail, encoding_of, given_to_all, pack

log = logging.getLogger("fedkit")


@dataclass(frozen=True)
class Credentials:
    """Who the clients of this process are in secure sessions, and what they insist on.

    random: where the secrets of a client's session come from. sessions: what a client remembers of others.
    witnessed: in simulation, what `SecureClients.witness` tells is kept. threads: how many add the masks of
    one client; in simulation one, as clients share the cores.
    """

    trust: Trust
    floors: Floors
    identity: Callable[[ClientId], Identity]
    random: Callable[[Key], Random]
    sessions: Callable[[ClientId], Sessions]
    witnessed: bool = False
    threads: int = 1


def nameless(floors: Floors) -> Credentials:
    """Clients without identities: fresh keys that nobody vouches for.

    Against an honest server only; clients whose floors say otherwise refuse every session.
    """
    keys = lru_cache(maxsize=None)(lambda client: Identity(client, SigningKey.new()))
    remembered = lru_cache(maxsize=None)(lambda _: MemorySessions())
    return Credentials(Trust.none(), floors, keys, lambda _: RANDOM, remembered)


@dataclass
class _Held:
    """A task that waits for sessions, and where its client stands in the last one."""

    task: Task
    attempt: int = -1
    machine: SecAggClient | None = None
    prepared: Update | None = None


@dataclass(frozen=True)
class Resting:
    """A task that waits for sessions, in a process that ends after each message.

    attempt: of the last session, -1 before the first. machine: what `SecAggClient.wake` takes: the secrets
    of one session; empty where the client is in none.
    """

    task: Task
    attempt: int
    machine: bytes = field(repr=False)


class SecureClients:
    """The secure sessions of all clients of one process. credentials: None refuses every session.

    train: does a task and returns its update; what it raises is told as of any task.
    """

    def __init__(self, job: Job, credentials: Credentials | None, train: Callable[[Task], Update]) -> None:
        self._job, self._credentials, self._train = job, credentials, train
        self._witnessed = credentials is not None and credentials.witnessed
        self._held: dict[Key, _Held] = {}
        self._left: set[str] = set()
        self._seconds: dict[tuple[Kind, int, int], float] = {}
        self._packed: dict[tuple[Kind, int, int], dict[ClientId, tuple[Lanes, Tail]]] = {}

    def hold(self, task: Task, work: float = 1.0) -> None:
        """Take a task that announces sessions; twice is as good as once.

        work: the share of it that the client itself means to do, where it cannot do all. The server may not
        ask for less, nor choose the seed: with little work of all others a client would stand alone in the
        sum, and with one seed in two rounds it would do the same in both.
        """
        if self._job.secagg is None:
            raise ProtocolRefused("session", "a secure session, in a job that agreed on none")
        key = task.key
        if task.work != 1.0:
            raise ProtocolRefused("work", f"{task.work:.3g} of the work, where all do the whole of it")
        if task.seed != train_seed(self._job.model_seed, key.round, key.client):
            raise ProtocolRefused("seed", f"another seed than that of the job for round {key.round + 1}")
        self._held.setdefault(key, _Held(replace(task, work=work)))

    def prepare(self, key: Key) -> None:
        """Train now for the task of this key, so that the masked update is there when it is asked for."""
        held = self._held[key]
        if held.prepared is None:
            held.prepared = self._train(held.task)

    def answer(self, request: FromServer) -> FromClient:
        """The client's message; ProtocolRefused where the server broke a rule, or what training raises.

        After either the client takes no further part in the session, unless the request could not be read or
        was to open a session: those change nothing, as anybody can send them.
        """
        key = request.key
        held = self._held.get(task_key(key))
        if held is None:
            raise ProtocolRefused("task", f"no task has announced the session of round {key.round + 1}")
        if key.stage == Stage.advertise:
            return FromClient(key, self._join(held, key, request.body))
        if held.machine is None or held.attempt != key.attempt:
            raise ProtocolRefused(
                "attempt", f"no session {key.attempt + 1} of round {key.round + 1} is under way"
            )
        machine, held.machine = held.machine, None
        try:
            body = self._advance(machine, held, Stage(key.stage), request.body)
        except ProtocolRefused:
            held.machine = machine if machine.stage else None
            raise
        held.machine = machine
        return FromClient(key, body)

    def forget(self, key: Key) -> None:
        """The task of this key has its verdict."""
        self._held.pop(key, None)

    def rest(self) -> list[Resting]:
        """All that `wake` needs in another process. Secrets are in it while a session is under way."""
        return [
            Resting(held.task, held.attempt, held.machine.rest() if held.machine is not None else b"")
            for held in self._held.values()
        ]

    def wake(self, resting: Iterable[Resting]) -> None:
        """Continue from `rest`. WireError: a machine that is none."""
        for one in resting:
            held = self._held[one.task.key] = _Held(one.task, one.attempt)
            if one.machine:
                held.machine = self._machine(replace(one.task.key, attempt=one.attempt))
                held.machine.wake(one.machine)

    def witness(self, kind: Kind, round: int, attempt: int) -> Witness:
        """What was seen of that session, which is forgotten."""
        name = (kind, round, attempt)
        return Witness(self._seconds.pop(name, 0.0), self._packed.pop(name, {}))

    def _join(self, held: _Held, key: Key, body: bytes) -> bytes:
        """The advert for a new session, which takes the place of the one before it."""
        who = self._known()
        if key.attempt <= held.attempt:
            raise ProtocolRefused(
                "attempt", f"session {key.attempt + 1} of round {key.round + 1} was opened before"
            )
        began, remembers = time.thread_time(), who.sessions(key.client)
        machine = self._machine(key)
        made = machine.advertise(body, self._expected(held, key.attempt))
        retries = self._job.secagg.retries if self._job.secagg is not None else 0
        if remembers.joined(key.job, key.round, key.kind) > retries:
            raise ProtocolRefused("attempts", f"more than {1 + retries} sessions of round {key.round + 1}")
        held.machine, held.attempt = machine, key.attempt
        self._spent(held, began)
        return made

    def _known(self) -> Credentials:
        if self._credentials is None:
            raise ProtocolRefused("identity", "this client has no identity for secure sessions")
        return self._credentials

    def _machine(self, key: Key) -> SecAggClient:
        who, client = self._known(), key.client
        return SecAggClient(
            who.identity(client),
            who.trust,
            who.floors,
            who.sessions(client),
            random=who.random(key),
            threads=who.threads,
        )

    def _advance(self, machine: SecAggClient, held: _Held, stage: Stage, body: bytes) -> bytes:
        if stage is Stage.mask:
            return self._mask(machine, held, body)
        began = time.thread_time()
        if stage is Stage.share:
            made = machine.share(body)
        elif stage is Stage.agree:
            made = machine.agree(body)
        else:
            made = machine.unmask(body)
        self._spent(held, began)
        return made

    def _mask(self, machine: SecAggClient, held: _Held, body: bytes) -> bytes:
        began = time.thread_time()
        machine.accept(body)  # nobody trains for a session that is refused
        self._spent(held, began)
        task = held.task
        update = held.prepared if held.prepared is not None else self._train(task)
        ctx = codec_context(self._job, task.key.round, task.seed, _scale(task))
        vector, tail = pack(self._job, task.key.kind, update, ctx)
        self._tell_left(update.metrics)
        if self._witnessed and self._job.secagg is not None and self._job.secagg.verify:
            seen = self._packed.setdefault(_name(held), {})
            seen[task.key.client] = (vector.copy(), tail.copy())
        began = time.thread_time()
        made = machine.mask(vector, tail)
        self._spent(held, began)
        return made

    def _tell_left(self, metrics: Metrics) -> None:
        """Which metrics no secure sum has room for, each once."""
        for name in sorted(metrics.keys() - self._left - {*self._job.metrics}):
            self._left.add(name)
            log.warning("metric %r stays with the clients: it is not in the workload's metric_names", name)

    def _expected(self, held: _Held, attempt: int) -> Expected:
        """What this client makes of the session by itself, from its job and its task."""
        task, key = held.task, held.task.key
        encoding = encoding_of(self._job, key.kind, key.round, _scale(task))
        return Expected(self._job.id, key.round, key.kind, attempt, given_to_all(task), encoding)

    def _spent(self, held: _Held, began: float) -> None:
        name = _name(held)
        if self._witnessed:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.thread_time() - began


def task_key(key: Key) -> Key:
    """The key of the task that announced a session."""
    return replace(key, stage="", attempt=0)


def _name(held: _Held) -> tuple[Kind, int, int]:
    return held.task.key.kind, held.task.key.round, held.attempt


def _scale(task: Task) -> float:
    return float(task.settings.get(SCALE, 0.0))
