"""The answers of tests/vectors/answers-1.json, to the byte: what a device makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from fedkit import jobfile
from fedkit.federation import Verdict
from fedkit.secagg.identity import SigningKey
from fedkit.wire import read_key
from fedkit_clients.edge.answers import OtherRun, Refused, Unreachable
from fedkit_clients.edge.offers import Blob
from fedkit_clients.edge.packed import read_task
from fedkit_clients.edge.transport import Transport
from tests.clients.edge.overhttpx import OverHttpx

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "answers-1.json").read_text())
TALK: list[dict[str, Any]] = VECTORS["conversation"]
MODEL = b"\x00\x00@?" * 6 + bytes(8)


def body_of(told: dict[str, str]) -> bytes:
    return bytes.fromhex(told["hex"]) if "hex" in told else told["body"].encode("ascii")


class Recorded:
    """An aggregator that answers as the vectors do, one after another from `at`, if asked what they ask."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, request: httpx.Request) -> httpx.Response:
        vector, self.at = TALK[self.at], self.at + 1
        asked = (request.method, request.url.raw_path.decode(), request.content)
        assert asked == (vector["method"], vector["target"], body_of(vector))
        for name, value in vector["headers"].items():
            assert request.headers[name] == value
        due = vector["answer"]
        return httpx.Response(due["status"], headers=due["headers"], stream=httpx.ByteStream(body_of(due)))


def device(at: int, run: str = VECTORS["run"]) -> Transport:
    """A device that asks what the vectors from `at` on ask."""
    made = Transport(
        *("http://host:1", "alice", SigningKey(bytes(32)), bytes(32)),
        way=OverHttpx(Recorded(at)),
        clock=lambda: 1_790_000_000,
    )
    made.run = run
    return made


def where(method: str, status: int, nth: int = 0, begins: str = "") -> int:
    """The place of a request in the file, by its answer."""
    found = [n for n, v in enumerate(TALK) if (v["method"], v["answer"]["status"]) == (method, status)]
    return [n for n in found if TALK[n]["target"].startswith(begins)][nth]


def test_the_job_and_the_run() -> None:
    run, data = device(where("GET", 200)).job()
    assert run == VECTORS["run"]
    key = jobfile.decode(data).id
    assert f'"{key}.{run}"' == TALK[where("GET", 304)]["headers"]["If-None-Match"]


def test_a_task_its_model_and_what_becomes_of_it(tmp_path: Path) -> None:
    news = device(at := where("GET", 200, begins="/v1/tasks")).news(0)
    (offer,) = news.offers
    assert (news.now, news.settled, news.messages, news.last, news.ca) == (1_790_000_000.0, (), (), None, b"")
    assert (offer.id, offer.version, offer.model.bytes) == (1, 2, len(MODEL))
    assert offer.difference is not None
    assert (offer.difference.base, offer.difference.told_by) == (1, 0)
    assert offer.frame.data is not None
    task = read_task(offer.frame.data)
    (tmp_path / "half").write_bytes(MODEL[:20])
    assert device(at + 1).blob(offer.model, tmp_path / "new") == MODEL
    assert device(at + 2).blob(offer.model, tmp_path / "half") == MODEL, "it went on where it was"
    assert device(where("POST", 200)).news(0, tasks=[offer.id]).offers == ()
    told = device(where("GET", 200, 1, "/v1/tasks")).news(0)
    assert told.settled == ((task.key, Verdict.counted),)
    device(where("POST", 200, 1, "/v1/tasks")).news(0, settled=[task.key])
    last = device(where("GET", 200, 2, "/v1/tasks")).news(0).last
    assert last == (2, Blob(offer.model.sha256, offer.model.bytes))


def test_an_upload_that_was_cut_off_goes_on() -> None:
    frame = b"".join(body_of(v) for v in TALK if v["method"] == "PATCH" and v["answer"]["status"] < 300)
    again = where("POST", 200, 1, "/v1/uploads")
    key = read_key(json.loads(TALK[again]["body"])["key"])
    link = device(again)
    link.upload(key, frame, begun=True)
    assert link.gained == len(frame) - 100


def test_refusals(tmp_path: Path) -> None:
    digest = TALK[where("GET", 416)]["target"].removeprefix("/v1/blobs/")
    (tmp_path / "more").write_bytes(MODEL)
    with pytest.raises(Unreachable, match="begins again"):
        device(where("GET", 416)).blob(Blob(digest, len(MODEL) + 1), tmp_path / "more")
    with pytest.raises(Refused, match="404 unknown"):
        device(where("GET", 404)).blob(Blob("0" * 64, 9), tmp_path / "part")
    with pytest.raises(OtherRun, match="this is run"):
        device(where("GET", 409), "0" * 16).news(0)
