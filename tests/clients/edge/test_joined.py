"""What a client keeps of tasks that secure sessions answer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkit import wire
from fedkit.federation import Verdict
from fedkit.messages import Failure, Key, Task
from fedkit.secagg.messages import FromClient, FromServer, Stage
from fedkit_clients.edge.joined import Joined
from fedkit_clients.edge.spool import Spool
from fedkit_clients.edge.talk import Talk

pytestmark = pytest.mark.usefixtures("fast_disk")
KEY = Key("j" * 16, 3, "train", "", 0, "c")
TASK = Task(KEY, 1, {}, {}, {}, 5, 1.0, 9.0, "sid", 9.0)
FRAME = wire.encode(TASK)
NAME, MODEL = hashlib.sha256(FRAME).hexdigest(), "ab" * 32
MEMORY = {"strategy": {"control": {"w": np.ones(2, np.float32)}}}


@dataclass
class Participant:
    """Holds tasks of sessions, and remembers something once it has masked."""

    held: list[Key] = field(default_factory=list)
    memory: dict[Key, Any] = field(default_factory=dict)
    settled: list[tuple[Key, Verdict]] = field(default_factory=list)
    refuses: bool = False

    def handle(self, request: Task | FromServer, budget: int = 0) -> list[Any]:
        if isinstance(request, Task):
            if self.refuses:
                return [Failure(request.key, "refused", "ProtocolRefused", "seed")]
            self.held.append(request.key)
            return []
        if request.key.stage == Stage.mask:
            self.memory[KEY] = MEMORY
        return [FromClient(request.key, b"said")]

    def pending(self) -> dict[Key, Any]:
        return self.memory

    def settle(self, key: Key, verdict: Verdict) -> None:
        self.settled.append((key, verdict))
        self.memory.pop(key, None)


class Models:
    def read(self, sha256: str) -> dict[str, Any]:
        return {}

    def prune(self, needed: list[str]) -> None:
        assert set(needed) <= {MODEL}


class Owner:
    """Takes part in all, and is told nothing."""

    def demand(self, job: object, task: Task, name: str) -> None:
        """It does."""

    def over(self, name: str) -> None:
        """It counts nothing."""

    def received(self, participant: object, task: Task) -> None:
        """It is not told."""

    def told(self, failure: Failure) -> Failure:
        return failure

    def room(self, seconds: float) -> int:
        return 0


def join(folder: Path, participant: Participant) -> Joined:
    parts: dict[str, Any] = {"job": None, "fetch": None, "participant": participant}
    parts |= {"models": Models(), "device": Owner(), "spool": Spool(folder)}
    return Joined(run="f" * 16, talk=Talk("j" * 16, "c"), **parts)


@pytest.fixture
def participant() -> Participant:
    return Participant()


def hear(joined: Joined, stage: Stage, attempt: int = 0) -> Key:
    key = replace(KEY, stage=stage.value, attempt=attempt)
    joined.talk.hear(f"{stage}{attempt}", wire.encode(FromServer(key, b"asked")))
    return key


def test_a_task_of_sessions_is_held_and_answered_message_by_message(
    tmp_path: Path, participant: Participant
) -> None:
    joined = join(tmp_path, participant)
    joined.spool.take(NAME, MODEL, FRAME)
    joined.train()
    assert (participant.held, joined.busy, joined.spool.finished()) == ([KEY], False, [])
    key = hear(joined, Stage.advertise)
    assert joined.busy
    joined.answer()
    assert joined.talk.answers() == [(key, wire.encode(FromClient(key, b"said")))]


def test_what_a_masked_update_changes_is_on_the_disk_before_it_leaves(
    tmp_path: Path, participant: Participant
) -> None:
    joined = join(tmp_path, participant)
    joined.spool.take(NAME, MODEL, FRAME)
    joined.train()
    hear(joined, Stage.mask)
    joined.answer()
    assert Spool(tmp_path).pending()[KEY]["strategy"]["control"]["w"].tolist() == [1.0, 1.0]
    joined.settle(KEY, Verdict.counted)
    assert (Spool(tmp_path).pending(), participant.settled) == ({}, [(KEY, Verdict.counted)])
    assert not joined.busy


def test_nothing_of_an_answer_is_on_the_disk(tmp_path: Path, participant: Participant) -> None:
    joined = join(tmp_path, participant)
    joined.spool.take(NAME, MODEL, FRAME)
    joined.train()
    for stage in Stage:
        hear(joined, stage)
        joined.answer()
    assert len(joined.talk.answers()) == len(Stage)
    told = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"said" not in told
    assert b"asked" not in told


def test_a_task_that_is_refused_at_once_has_a_reply(tmp_path: Path, participant: Participant) -> None:
    participant.refuses = True
    joined = join(tmp_path, participant)
    joined.spool.take(NAME, MODEL, FRAME)
    joined.train()
    ((name, key),) = joined.spool.finished()
    assert (name, key) == (NAME, KEY)
    assert wire.decode(joined.spool.reply(name) or b"") == Failure(KEY, "refused", "ProtocolRefused", "seed")


def test_sessions_of_a_task_that_was_refused_hear_why_until_it_is_settled(
    tmp_path: Path, participant: Participant
) -> None:
    participant.refuses = True
    joined = join(tmp_path, participant)
    joined.spool.take(NAME, MODEL, FRAME)
    joined.train()
    key = hear(joined, Stage.advertise)
    joined.answer()
    assert joined.talk.answers() == [(key, wire.encode(Failure(key, "refused", "ProtocolRefused", "seed")))]
    joined.settle(KEY, Verdict.refused)
    assert not joined.refused
