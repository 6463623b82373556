"""Results that come in one request: whole, once, and on the disk before that is said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedkit import wire
from fedkit.aggregator import bodies, uploads
from fedkit.federation import Verdict
from fedkit.messages import EncodedUpdate, Key
from fedkit.secagg.messages import FromClient, FromServer


def frame_of(key: Key, weight: float = 3.0) -> bytes:
    return wire.encode(EncodedUpdate(key, "none", bytes(32), weight, {}, 1.0))


def place(key: Key) -> str:
    return f"/v1/uploads/{wire.name_of(key)}"


@pytest.fixture
def key(site: Any) -> Key:
    task = site.task("alice")
    site.federation.send([task])
    site.leases.news("alice")
    found: Key = task.key
    return found


@pytest.fixture
def put(call: Callable[..., Any], key: Key) -> Callable[..., tuple[int, str]]:
    """Send a frame; the status and the word of the answer."""

    def send(frame: bytes = b"", name: str = "alice", **change: str) -> tuple[int, str]:
        async def use(device: Any) -> tuple[int, str]:
            told = {header.replace("_", "-"): value for header, value in change.items()}
            got = await device.ask("PUT", place(key), frame or frame_of(key), more=told)
            return got.status_code, got.json()["error"] if got.content else ""

        found: tuple[int, str] = call(use, name)
        return found

    return send


def replies(site: Any) -> list[float]:
    """Weights of what has come."""
    return [arrival.reply.weight for arrival in site.federation.receive(site.federation.now())]


def nothing_is_left(site: Any) -> bool:
    folders = (site.directory / "uploads", site.directory / bodies.INCOMING)
    return not any(path for folder in folders for path in folder.iterdir())


def test_what_comes_twice_counts_once(site: Any, put: Callable[..., Any]) -> None:
    assert [put() for _ in range(3)] == [(201, "")] * 3
    assert replies(site) == [3.0]
    assert not list((site.directory / bodies.INCOMING).iterdir())


def test_it_is_there_after_a_restart(site: Any, put: Callable[..., Any]) -> None:
    assert put() == (201, "")
    assert replies(site.again()) == [3.0]


def test_another_result_for_the_same_key_is_refused(site: Any, put: Callable[..., Any], key: Key) -> None:
    put()
    assert put(frame_of(key, 4.0)) == (409, "other")
    assert replies(site) == [3.0]


def test_what_is_not_wanted_any_more_is_not_kept(site: Any, put: Callable[..., Any], key: Key) -> None:
    site.federation.settle({key: Verdict.lost})
    assert put() == (201, "")
    assert nothing_is_left(site)


def test_of_another_client_or_of_no_task(site: Any, put: Callable[..., Any], key: Key) -> None:
    assert put(name="bob") == (404, "unknown")
    site.federation.settle({key: Verdict.lost})
    site.leases.acknowledge("alice", [], [key])
    assert put() == (404, "unknown")
    assert nothing_is_left(site)


def test_a_size_that_no_result_has(site: Any, put: Callable[..., Any]) -> None:
    assert put(bytes(int(site.journal.meta("most")) + 1)) == (413, "size")
    assert nothing_is_left(site)


def test_bytes_that_were_not_signed(
    site: Any, put: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hmac.compare_digest", lambda *_: False)
    assert put() == (422, "body")
    assert nothing_is_left(site)


def test_it_takes_the_place_of_what_was_begun(
    site: Any, put: Callable[..., Any], call: Callable[..., Any], key: Key
) -> None:
    frame = frame_of(key)
    about = {"bytes": len(frame), "key": wire.key_row(key), "sha256": hashlib.sha256(frame).hexdigest()}

    async def begin(device: Any) -> str:
        told = (await device.post("/v1/uploads", about)).json()
        await device.ask("PATCH", place(key), frame[:9], more={"Upload-Offset": "0"})
        return str(told["id"])

    assert call(begin) == wire.name_of(key)
    assert put() == (201, "")
    assert replies(site) == [3.0]

    async def rest(device: Any) -> int:
        got = await device.ask("PATCH", place(key), frame[9:], more={"Upload-Offset": "9"})
        return int(got.status_code)

    assert call(rest) == 201, "nothing is left to send"


def test_another_result_takes_the_place_of_what_is_not_whole(
    site: Any, put: Callable[..., Any], call: Callable[..., Any], key: Key
) -> None:
    frame, new = frame_of(key), frame_of(key, 4.0)
    site.uploads.begin("alice", key, len(frame), hashlib.sha256(frame).hexdigest())
    site.uploads.append("alice", wire.name_of(key), 0, frame[:9])
    assert put(new) == (201, "")
    assert put(frame) == (409, "other")
    assert replies(site) == [4.0]


@pytest.mark.parametrize("step", ["os.fsync", "sync"])
def test_a_disk_that_refuses_keeps_nothing_and_it_comes_again(
    site: Any, put: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"fedkit.aggregator.uploads.{step}", full)
        assert put() == (503, "disk")
    assert replies(site) == []
    site.uploads.sweep()
    assert nothing_is_left(site), "a file without its entry is a stray"
    assert put() == (201, "")
    assert replies(site) == [3.0]


def test_it_is_flushed_before_it_is_entered(
    site: Any, put: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = list[str]()
    for name in ("os.fsync", "sync"):
        monkeypatch.setattr(f"fedkit.aggregator.uploads.{name}", lambda _, name=name: steps.append(name))
    enter = uploads.Uploads._enter
    monkeypatch.setattr(
        uploads.Uploads,
        "_enter",
        lambda *given: steps.append("enter") or enter(*given),  # type: ignore[func-returns-value]
    )
    put()
    assert steps == ["os.fsync", "enter", "sync"], "the entry is durable at the end of its transaction"


def test_what_a_crash_has_left_is_removed(site: Any, tmp_path: Path) -> None:
    left = site.directory / bodies.INCOMING
    left.mkdir()
    (left / "0123.tmp").write_bytes(b"half")
    site.fresh_app()
    assert not list(left.iterdir())


def test_a_key_has_one_name() -> None:
    one, other = Key("j", 1, "train", "", 0, "ä"), Key("j", 1, "train", "", 0, "a")
    row = json.dumps(["j", 1, "train", "", 0, "ä"], separators=(",", ":"))
    assert wire.name_of(one) == hashlib.sha256(row.encode()).hexdigest()[:32] != wire.name_of(other)


def test_a_second_answer_in_a_session_reaches_it_once_the_first_has(
    site: Any, call: Callable[..., Any]
) -> None:
    """Both are signed: the session holds one against the other. Before and later the first one stands."""
    key = replace(site.task("alice").key, stage="share")
    site.federation.send([FromServer(key, b"what is asked")])
    site.leases.news("alice")

    def put(body: bytes) -> int:
        async def use(device: Any) -> int:
            got = await device.ask("PUT", place(key), wire.encode(FromClient(key, body)))
            return int(got.status_code)

        return int(call(use, "alice"))

    def came() -> list[bytes]:
        return [arrival.reply.body for arrival in site.federation.receive(site.federation.now())]

    assert (put(b"first"), put(b"second")) == (201, 409), "the session has not seen the first"
    assert came() == [b"first"]
    assert (put(b"first"), came()) == (201, [])
    assert (put(b"second"), came()) == (201, [b"second"])
    assert site.leases.news("alice")[1] == [], "and it is not asked once more"
    site.federation.settle({key: Verdict.counted})
    assert put(b"third") == 404
    assert nothing_is_left(site)
