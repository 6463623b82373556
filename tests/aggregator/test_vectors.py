"""The answers of tests/vectors/answers-1.json, to the byte: what an aggregator says in one conversation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fedkit import wire
from fedkit.federation import Verdict
from fedkit.messages import EncodedUpdate

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "answers-1.json").read_text())
NOW = 1_790_000_000.0


def body_of(told: Mapping[str, str]) -> bytes:
    """A body of the file: text where it is text, else hex."""
    return bytes.fromhex(told["hex"]) if "hex" in told else told["body"].encode("ascii")


@pytest.fixture
def conversed(site: Any, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Ask one thing after another; between them the training loop does what `after` names."""
    monkeypatch.setattr(site.journal, "now", lambda: NOW)
    site.journal.put(run=VECTORS["run"])
    site.publish(1)
    site.publish(2, 0.75, b"d" * 16 + b"a difference", 1)
    task = site.task("alice", 1, 2)

    def goes_on(after: str) -> None:
        if after == "a task is sent":
            site.federation.send([task])
        elif after == "its result is counted":
            (arrival,) = site.federation.receive(NOW)
            assert isinstance(arrival.reply, EncodedUpdate)
            site.federation.settle({task.key: Verdict.counted})
        elif after == "the run is over":
            site.journal.put(over=1)

    async def use(device: Any) -> list[Any]:
        got = []
        for vector in VECTORS["conversation"]:
            goes_on(vector.get("after", ""))
            more, body = vector["headers"], body_of(vector)
            answer = await device.ask(vector["method"], vector["target"], body, more=more)
            got.append(answer)
        return got

    return lambda: call(use)


def test_the_aggregator_says_what_the_vectors_say(conversed: Callable[..., Any]) -> None:
    got = conversed()
    for vector, answer in zip(VECTORS["conversation"], got, strict=True):
        due = vector["answer"]
        assert (answer.status_code, dict(answer.headers)) == (due["status"], due["headers"]), vector["target"]
        if answer.status_code < 400:
            assert answer.content == body_of(due), vector["target"]
        else:  # the message is for people, and may change
            assert answer.json().keys() == {"error", "message"}
            assert answer.json()["error"] == json.loads(due["body"])["error"]


def test_the_vectors_hold_together() -> None:
    (news,) = (v for v in VECTORS["conversation"] if v.get("after") == "a task is sent")
    (offer,) = json.loads(news["answer"]["body"])["tasks"]
    blobs = {
        v["target"]: body_of(v["answer"]) for v in VECTORS["conversation"] if v["answer"]["status"] == 200
    }
    for blob in (offer["model"], offer["difference"]):
        data = blobs[f"/v1/blobs/{blob['sha256']}"]
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (blob["sha256"], blob["bytes"])
    pieces = [v for v in VECTORS["conversation"] if v["method"] == "PATCH" and v["answer"]["status"] < 300]
    frame = b"".join(map(body_of, pieces))
    begun = json.loads(
        next(v["body"] for v in VECTORS["conversation"] if v["target"].startswith("/v1/uploads?"))
    )
    assert (begun["sha256"], begun["bytes"]) == (hashlib.sha256(frame).hexdigest(), len(frame))
    assert wire.decode(frame).key == wire.read_key(begun["key"])
