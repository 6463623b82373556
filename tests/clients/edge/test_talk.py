"""Messages of sessions: each is heard once, answered once, and kept until the aggregator has the answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedkit import wire
from fedkit.errors import WireError
from fedkit.messages import Failure, Key
from fedkit.participant import Answer
from fedkit.secagg.messages import FromClient, FromServer
from fedkit_clients.edge.talk import MOST, Talk, lost

KEY = Key("job", 3, "train", "share", 1, "ward 7")
TASK = Key("job", 3, "train", "", 0, "ward 7")


def frame(key: Key = KEY) -> bytes:
    return wire.encode(FromServer(key, b"said"))


def said(request: FromServer) -> Answer:
    return FromClient(request.key, b"back")


def test_it_is_answered_once_and_kept_until_it_was_uploaded() -> None:
    talk = Talk("job", "ward 7")
    talk.hear("aa", frame())
    assert (talk.knows("aa"), talk.busy) == (True, True)
    assert list(talk.answer(said)) == [KEY]
    assert list(talk.answer(said)) == []
    assert talk.answers() == [(KEY, wire.encode(FromClient(KEY, b"back")))] == talk.answers()
    talk.told(KEY)
    assert (talk.answers(), talk.busy, talk.knows("aa")) == ([], False, True)


def test_all_is_forgotten_with_the_task() -> None:
    talk, other = Talk("job", "ward 7"), replace(KEY, round=4)
    for name, key in (("aa", KEY), ("bb", other)):
        talk.hear(name, frame(key))
    talk.forget(TASK)
    assert (talk.knows("aa"), talk.knows("bb")) == (False, True)
    assert list(talk.answer(said)) == [other]


@pytest.mark.parametrize("key", [replace(KEY, client="ward 8"), replace(KEY, job="another")])
def test_what_is_for_others_is_not_heard(key: Key) -> None:
    with pytest.raises(WireError, match="a message for"):
        Talk("job", "ward 7").hear("aa", frame(key))


@pytest.mark.parametrize(
    "data", [b"", wire.encode(Failure(KEY, "refused")), wire.encode(FromClient(KEY, b""))]
)
def test_what_is_no_message_is_not_heard(data: bytes) -> None:
    with pytest.raises(WireError):
        Talk("job", "ward 7").hear("aa", data)


def test_sessions_without_end_do_not_fill_the_memory() -> None:
    talk = Talk("job", "ward 7")
    for number in range(MOST):
        talk.hear(str(number), frame(replace(KEY, attempt=number)))
    with pytest.raises(WireError, match="have no verdict"):
        talk.hear("one more", frame(replace(KEY, attempt=MOST)))
    talk.forget(TASK)
    talk.hear("one more", frame(replace(KEY, round=4)))
    assert talk.knows("one more")


def test_who_cannot_answer_says_so() -> None:
    assert wire.decode(wire.encode(lost(KEY))) == Failure(KEY, "refused", "", "session")
