"""What devices ask for and get, to docs/edge-protocol.md."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedkit import jobfile, wire
from fedkit.aggregator import app as app_module
from fedkit.aggregator.federation import EdgeFederation
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.refusal import Refusal
from fedkit.aggregator.registry import Roster
from fedkit.federation import Verdict
from fedkit.messages import EncodedUpdate, Key
from fedkit.secagg.identity import Trust

OTHER = bytes(range(32))


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def row(key: Key) -> list[str | int]:
    return [key.job, key.round, key.kind, key.stage, key.attempt, key.client]


def test_the_job_as_bytes_with_its_id(site: Any, call: Callable[..., Any]) -> None:
    async def use(device: Any) -> None:
        got = await device.ask("GET", "/v1/job")
        assert (got.status_code, jobfile.decode(got.content).id) == (200, site.job.id)
        assert got.headers["etag"] == f'"{site.job.id}.{site.journal.meta("run")}"'
        assert (got.headers["fedkit-version"], got.headers["fedkit-time"]) == ("1", "1790000000")
        again = await device.ask("GET", "/v1/job", more={"If-None-Match": got.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")

    call(use)


def test_the_model_of_a_run_that_is_over_is_told(site: Any, call: Callable[..., Any]) -> None:
    async def last(device: Any) -> Any:
        told = (await device.ask("GET", "/v1/tasks")).json()["last"]
        if told is not None:
            model = (await device.ask("GET", f"/v1/blobs/{told['sha256']}")).content
            assert (len(model), sha(model)) == (told["bytes"], told["sha256"])
        return told and told["version"]

    site.publish(2, 0.75)
    assert call(last) is None, "tasks bring it while the run goes on"
    site.journal.put(over=1)
    site.federation.settle({})
    assert call(last) == 2
    site.federation.open(site.job)
    assert call(last) is None, "the run goes on"


def test_a_round_of_one_client(site: Any, call: Callable[..., Any]) -> None:
    frame = b"d" * 16 + b"a difference"
    site.publish(1)
    site.publish(2, 0.75, frame, 1)
    task = site.task("alice", 1, 2)
    site.federation.send([task])

    async def use(device: Any) -> None:
        news = (await device.ask("GET", "/v1/tasks?wait=0")).json()
        assert abs(news["now"] - site.federation.now()) < 60
        assert news["settled"] == []
        (offer,) = news["tasks"]
        assert (offer["version"], offer["lease"]) == (2, 60.0)
        model = (await device.ask("GET", f"/v1/blobs/{offer['model']['sha256']}")).content
        assert (len(model), sha(model)) == (offer["model"]["bytes"], offer["model"]["sha256"])
        assert model == b"\x00\x00@?" * 6 + bytes(8), "float32, little-endian, in the layout's order"
        told = {"base": 1, "told_by": 0, "sha256": sha(frame), "bytes": len(frame)}
        assert offer["difference"] == told
        assert (await device.ask("GET", f"/v1/blobs/{sha(frame)}")).content == frame
        data = (await device.ask("GET", f"/v1/blobs/{offer['frame']}")).content
        assert len(data) == offer["bytes"]
        assert wire.decode(data).key == task.key
        assert base64.b64decode(offer["data"]) == data
        acked = await device.post("/v1/tasks", {"tasks": [offer["id"]], "settled": []})
        assert (acked.status_code, acked.json()["tasks"]) == (200, [])
        result = wire.encode(EncodedUpdate(task.key, "none", bytes(32), 3.0, {}, 1.0))
        body = {"key": row(task.key), "bytes": len(result), "sha256": sha(result)}
        begun = (await device.post("/v1/uploads", body)).json()
        place = f"/v1/uploads/{begun['id']}"
        assert begun["offset"] == 0
        part = await device.ask("PATCH", place, result[:9], more={"Upload-Offset": "0"})
        assert (part.status_code, part.headers["upload-offset"]) == (204, "9")
        head = await device.ask("HEAD", place)
        assert (head.headers["upload-offset"], head.headers["upload-length"]) == ("9", str(len(result)))
        wrong = await device.ask("PATCH", place, result[8:], more={"Upload-Offset": "8"})
        assert (wrong.status_code, wrong.json()["error"]) == (409, "offset")
        assert wrong.headers["upload-offset"] == "9"
        rest = await device.ask("PATCH", place, result[9:], more={"Upload-Offset": "9"})
        assert rest.status_code == 201

    call(use)
    (arrival,) = site.federation.receive(site.federation.now())
    assert (arrival.key, arrival.reply.weight) == (task.key, 3.0)
    site.federation.settle({task.key: Verdict.counted})

    async def hear(device: Any) -> None:
        for _ in range(2):
            news = (await device.ask("GET", "/v1/tasks")).json()
            assert news["settled"] == [[*row(task.key), "counted"]]
        told = await device.post("/v1/tasks", {"tasks": [], "settled": [row(task.key)]})
        assert told.json()["settled"] == []

    call(hear)


def test_a_blob_is_resumed(site: Any, call: Callable[..., Any]) -> None:
    site.publish()
    site.federation.send([site.task("alice")])
    digest = sha(b"\x00\x00\x00?" * 6 + bytes(8))

    async def use(device: Any) -> None:
        place = f"/v1/blobs/{digest}"
        whole = await device.ask("GET", place)
        part = await device.ask("GET", place, more={"Range": "bytes=5-"})
        assert (part.status_code, part.content) == (206, whole.content[5:])
        assert part.headers["content-range"] == f"bytes 5-{len(whole.content) - 1}/{len(whole.content)}"
        assert part.headers["etag"] == f'"{digest}"'
        over = await device.ask("GET", place, more={"Range": f"bytes={len(whole.content)}-"})
        assert (over.status_code, over.json()["error"]) == (416, "range")
        odd = await device.ask("GET", place, more={"Range": "bytes=1-2,5-7"})
        assert (odd.status_code, odd.content) == (200, whole.content)

    call(use)


@pytest.mark.parametrize(
    "path", ["0" * 64, "..%2f..%2fjournal.sqlite", "%2e%2e/journal.sqlite", "A" * 64, "00"]
)
def test_nothing_but_blobs_is_served(site: Any, call: Callable[..., Any], path: str) -> None:
    async def use(device: Any) -> None:
        got = await device.ask("GET", f"/v1/blobs/{path}")
        assert got.status_code == 404
        assert got.json()["error"] in ("unknown", "request")

    call(use)


def test_results_cannot_be_fetched(site: Any, call: Callable[..., Any]) -> None:
    task = site.task("alice")
    site.federation.send([task])
    site.deliver(task)
    (path,) = (site.directory / "uploads").iterdir()

    async def use(device: Any) -> None:
        for name in (sha(path.read_bytes()), path.name):
            assert (await device.ask("GET", f"/v1/blobs/{name}")).status_code == 404

    call(use, "bob")


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/v1/tasks", b"not json"),
        ("/v1/tasks", b'{"tasks":[]}'),
        ("/v1/tasks", b'{"tasks":[true],"settled":[]}'),
        ("/v1/tasks", b'{"tasks":[],"settled":[["j",-1,"train","",0,"alice"]]}'),
        ("/v1/tasks", b'{"tasks":[9007199254740993],"settled":[]}'),
        ("/v1/uploads", b'{"bytes":5,"key":[],"sha256":""}'),
        ("/v1/uploads", b'{"bytes":-5,"key":["j",0,"train","",0,"alice"],"sha256":"' + b"0" * 64 + b'"}'),
        ("/v1/uploads", b'{"bytes":5,"key":["j",0,"train","",0,"alice"],"sha256":"' + b"Z" * 64 + b'"}'),
        ("/v1/uploads", b"[" * 100_000),
    ],
)
def test_odd_bodies_are_refused(site: Any, call: Callable[..., Any], target: str, body: bytes) -> None:
    async def use(device: Any) -> None:
        got = await device.ask("POST", target, body)
        assert (got.status_code, got.json()["error"]) == (400, "request"), got.text

    call(use)


@pytest.mark.parametrize("wait", ["-1", "121", "1e1", "", "1.5", "999999999"])
def test_odd_waits_are_refused(call: Callable[..., Any], wait: str) -> None:
    async def use(device: Any) -> None:
        assert (await device.ask("GET", f"/v1/tasks?wait={wait}")).status_code == 400

    call(use)


def test_a_poll_waits_until_there_is_something(
    site: Any, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "_LOOK", 1000.0)  # it is woken, or it ends without a task
    site.publish()
    app = site.fresh_app()

    async def use(device: Any) -> None:
        async with app._bells.running(None):
            asking = asyncio.create_task(device.ask("GET", "/v1/tasks?wait=120"))
            while not app._bells._waiting:
                assert not asking.done()
                await asyncio.sleep(0.01)
            sender = threading.Thread(target=site.federation.send, args=([site.task("alice")],))
            sender.start()
            got = await asking
            sender.join()
            assert len(got.json()["tasks"]) == 1
            again = (await device.ask("GET", "/v1/tasks?wait=1")).json()["tasks"]
            assert again == got.json()["tasks"], "it was not acknowledged"
            told = await device.post("/v1/tasks?wait=1", {"tasks": [again[0]["id"]], "settled": []})
            assert told.json()["tasks"] == []
        assert not app._bells._waiting, "nothing is kept of polls that are over"

    call(use, app=app)


class Changing(Roster):
    """Who asks is revoked meanwhile, or another device gets its name."""

    word = ""

    def key(self, client: str) -> bytes | None:
        return OTHER if self.word == "signature" else super().key(client)

    def demand(self, client: str) -> None:
        if self.word == "revoked":
            raise Refusal(403, "revoked", "meanwhile")


@pytest.mark.parametrize("word", ["revoked", "signature"])
def test_who_may_not_ask_any_more_gets_nothing_from_a_poll_that_waits(
    site: Any, call: Callable[..., Any], word: str
) -> None:
    registry = Changing(site.federation._registry.trust)
    app = app_module.App(site.journal, registry, clock=lambda: 1_790_000_000.0)

    async def use(device: Any) -> None:
        async with app._bells.running(None):
            asking = asyncio.create_task(device.ask("GET", "/v1/tasks?wait=120"))
            while not app._bells._waiting:
                await asyncio.sleep(0.01)
            registry.word = word
            await asyncio.to_thread(site.federation.send, [site.task("alice")])
            assert (await asking).json()["error"] == word

    call(use, app=app)
    registry.word = ""
    assert len(site.leases.news("alice", 1e9)[1]) == 1, "it was leased to nobody"


def test_before_a_run_is_open_and_after_it_devices_wait(site: Any, call: Callable[..., Any]) -> None:
    async def use(device: Any) -> None:
        got = await device.ask("GET", "/v1/tasks?wait=30")
        assert (got.status_code, got.json()["error"]) == (503, word)
        assert int(got.headers["retry-after"]) > 0

    word = "draining"
    app = site.fresh_app()
    app.drain()
    call(use, app=app)
    word = "idle"
    with site.journal.transaction() as db:
        db.execute("DELETE FROM meta")
    call(use)


def test_a_full_disk_is_told_and_comes_back(
    site: Any, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = site.task("alice")
    site.federation.send([task])
    site.leases.news("alice")[1]
    result = wire.encode(EncodedUpdate(task.key, "none", bytes(32), 3.0, {}, 1.0))

    async def use(device: Any) -> None:
        body = {"key": row(task.key), "bytes": len(result), "sha256": sha(result)}
        begun = (await device.post("/v1/uploads", body)).json()
        place = f"/v1/uploads/{begun['id']}"

        def full(handle: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("fedkit.aggregator.uploads.os.fsync", full)
            got = await device.ask("PATCH", place, result, more={"Upload-Offset": "0"})
            assert (got.status_code, got.json()["error"], got.headers["retry-after"]) == (503, "disk", "30")
        head = await device.ask("HEAD", place)
        assert head.headers["upload-offset"] == str(len(result))

    call(use)
    assert len(list(site.federation.receive(site.federation.now()))) == 1


def test_unknown_paths_and_methods(call: Callable[..., Any]) -> None:
    async def use(device: Any) -> None:
        for method, target, status in (
            ("GET", "/", 404),
            ("GET", "/v1/uploads", 405),
            ("POST", "/v1/job", 405),
        ):
            got = await device.ask(method, target, b"{}" if method == "POST" else b"")
            assert (got.status_code, got.json()["error"]) == (status, "request")

    call(use)


def test_bytes_are_counted_both_ways(site: Any, call: Callable[..., Any]) -> None:
    before = site.federation.traffic()

    async def use(device: Any) -> None:
        got = await device.post("/v1/tasks", {"tasks": [], "settled": []})
        used = site.federation.traffic() - before
        assert used.up == len(json.dumps({"tasks": [], "settled": []}))
        assert used.down == len(got.content)

    call(use)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "POST", "PATCH", "PUT", "HEAD"]),
    target=st.sampled_from(["/v1/uploads", "/v1/uploads/00", "/v1/blobs/00", "/v1/tasks"]),
    body=st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=6)
            | st.dictionaries(
                st.sampled_from(["tasks", "settled", "key", "bytes", "sha256"]), inner, max_size=3
            )
        ),
    ).map(lambda value: json.dumps(value).encode()),
    offset=st.none() | st.text("0123456789-+ex. ", max_size=20),
)
def test_whatever_comes_is_answered_and_changes_nothing(
    site: Any, call: Callable[..., Any], method: str, target: str, body: bytes, offset: str | None
) -> None:
    async def use(device: Any) -> None:
        more = {"Upload-Offset": offset} if offset is not None else {}
        got = await device.ask(method, target, b"" if method in ("GET", "HEAD") else body, more=more)
        assert got.status_code in (200, 400, 404, 405, 409, 413), got.text
        assert "fedkit-time" in got.headers

    call(use)
    assert not site.federation.outstanding()
    assert list((site.directory / "uploads").iterdir()) == []


def test_requests_about_another_run_are_refused(
    site: Any, call: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    task = site.task("alice")
    site.federation.send([task])
    own, other = site.journal.meta("run"), "0" * 16

    async def use(device: Any) -> None:
        asked: list[tuple[str, str, bytes]] = [
            ("GET", "/v1/tasks?wait=0&run={}", b""),
            ("POST", "/v1/tasks?run={}", b'{"settled": [], "tasks": [1]}'),
            (
                "POST",
                "/v1/uploads?run={}",
                json.dumps({"bytes": 9, "key": wire.key_row(task.key), "sha256": "a" * 64}).encode(),
            ),
        ]
        for method, target, body in asked:
            got = await device.ask(method, target.format(other), body)
            assert (got.status_code, got.json()["error"]) == (409, "run"), target
        for method, target, body in asked:
            assert (await device.ask(method, target.format(own), body)).status_code == 200, target
        name = (
            await device.post("/v1/uploads", {"bytes": 9, "key": wire.key_row(task.key), "sha256": "a" * 64})
        ).json()["id"]
        got = await device.ask("PATCH", f"/v1/uploads/{name}?run={other}", b"x", more={"Upload-Offset": "0"})
        assert (got.status_code, got.json()["error"]) == (409, "run")

    call(use)
    assert not caplog.records, "every device meets it when the next run is served"


def test_a_run_keeps_its_id_and_another_has_another(site: Any, tmp_path: Path) -> None:
    run = site.journal.meta("run")
    assert site.again().journal.meta("run") == run
    journal = Journal(tmp_path / "other")
    EdgeFederation(journal, Roster(Trust.none())).open(site.job)
    assert journal.meta("run") != run
    journal.close()
