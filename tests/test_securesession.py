"""What a session takes from a federation: messages of its own stages, and failures of its own tasks."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from fedkit.federation import Arrival
from fedkit.messages import Failure, Key
from fedkit.secagg.header import Encoding, Header
from fedkit.secagg.identity import AgreementKey, Trust
from fedkit.secagg.messages import Stage
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.primitives.suite import Suite
from fedkit.secagg.server import SecAggServer
from fedkit.securesession import Session, deadlines
from fedkit_simulations.engine import Simulation

NAMES = ("a", "b", "c")
TASK = Key("job", 5, "train", "", 0, "a")
ASKED = replace(TASK, stage="advertise", attempt=1)


def session() -> Session:
    agreement = AgreementKey.new()
    policy = Policy(mode=Mode.HONEST_SERVER, dropout=0.0)
    header = Header(
        Suite.AES, bytes(32), "job", 5, "train", 1, bytes(32), Encoding(3, 32, 1, ""), policy, 3, None,
        deadlines(0.0, 1.0), "none", agreement.public,
    )  # fmt: skip
    server = SecAggServer(header, Trust.none(), NAMES, signer=None, agreement=agreement)
    made = Session(Simulation.__new__(Simulation), server, header, 3, 1, 3, NAMES, lambda _: None)
    made._waiting = set(NAMES)
    return made


@pytest.mark.parametrize("key", [TASK, ASKED], ids=["task", "stage"])
def test_a_failure_of_this_session_or_its_task_drops_the_client(key: Key) -> None:
    made = session()
    stray = replace(key, stage="nonsense", client="x")
    made._take(Arrival(key, 0.0, Failure(stray, "exception", "OSError")), {ASKED})
    assert made._waiting == {"b", "c"}
    assert made.failures["a"].key == key
    assert made.lost == {"a": Stage.advertise}  # by the key of the request, whatever the reply says


@pytest.mark.parametrize(
    "change",
    [{"round": 4}, {"kind": "evaluate"}, {"job": "other"}, {"attempt": 1}, {"client": "x"}],
    ids=repr,
)
def test_a_failure_of_anything_else_does_not(change: dict[str, str]) -> None:
    made, key = session(), replace(TASK, **change)  # type: ignore[arg-type]
    made._take(Arrival(key, 0.0, Failure(key, "exception", "OSError")), {ASKED})
    assert made._waiting == set(NAMES)
    assert made.failures == {}


def test_who_has_answered_a_stage_does_not_fail_in_it() -> None:
    """The first of two replies counts: its vector may be in the sum already."""
    made = session()
    made._waiting.remove("a")
    made._take(Arrival(ASKED, 0.0, Failure(ASKED, "exception", "OSError")), {ASKED})
    assert made.failures == {}
    assert made.lost == {}
    assert made.refused == {"a": "answered advertise with a Failure"}


def test_seconds_are_those_of_all_threads_that_a_stage_is_closed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    made, spent = session(), list[float]()

    def work() -> None:
        while time.thread_time() < 0.02:
            sum(range(1000))
        spent.append(time.thread_time())

    def advance() -> None:
        helper = threading.Thread(target=work)
        helper.start()
        helper.join()

    monkeypatch.setattr(made.server, "advance", advance)
    made.answered[Stage.share] = 3
    made._advance(Stage.share)
    assert made.seconds >= spent[0] >= 0.02
