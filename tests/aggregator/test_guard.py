"""Who asks: forged, replayed, skewed, oversized and unsigned requests are refused, and change nothing."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from fedkit.aggregator import bodies
from fedkit.secagg.identity import SigningKey
from fedkit.signing import SKEW, headers

NOW = 1_790_000_000


def keys(name: str) -> SigningKey:
    return SigningKey(hashlib.sha256(name.encode()).digest())


SERVER = keys("server").public


def refused(got: Any, status: int, word: str) -> None:
    assert (got.status_code, got.json()["error"]) == (status, word), got.text
    assert (got.headers["fedkit-version"], got.headers["fedkit-time"]) == ("1", str(NOW))


def test_another_version_is_told_of_both(call: Callable[..., Any]) -> None:
    async def use(device: Any) -> None:
        got = await device.ask("GET", "/v1/job", change={"Fedkit-Version": "2"})
        refused(got, 400, "version")
        assert got.json()["message"] == "the device speaks version '2', the aggregator 1"
        refused(await device.ask("GET", "/v1/job", drop=["Fedkit-Version"]), 400, "version")

    call(use)


@pytest.mark.parametrize(
    "name", ["Fedkit-Client", "Fedkit-Time", "Fedkit-Nonce", "Content-Digest", "Fedkit-Signature"]
)
def test_a_header_is_missing_or_malformed(call: Callable[..., Any], name: str) -> None:
    async def use(device: Any) -> None:
        refused(await device.ask("GET", "/v1/job", drop=[name]), 400, "headers")
        for value in ("", "z z", "9" * 4000, "\t", "٣" * 2):
            got = await device.ask("GET", "/v1/job", change={name: value.encode()})
            refused(got, 400, "headers")

    call(use)


def test_whose_name_is_known_is_not_told(call: Callable[..., Any]) -> None:
    """A stranger hears the same of names that there are and of others, misspelt ones too."""

    async def use(device: Any) -> None:
        answers = []
        for name in ("bob", "mallory", "%61lice", "%ff"):
            got = await device.ask("GET", "/v1/job", change={"Fedkit-Client": name})
            refused(got, 401, "signature")
            answers.append(got.text.replace(repr(name), ""))
        assert len(set(answers)) == 1, answers

    call(use)


def test_nobody_is_a_client_by_the_key_of_the_aggregator(call: Callable[..., Any]) -> None:
    async def use(device: Any) -> None:
        own = headers(keys("server"), "mallory", SERVER, "GET", "/v1/job", b"", NOW)
        refused(await device.client.get("/v1/job", headers=own), 401, "signature")

    call(use)


@pytest.mark.parametrize("seconds", [-SKEW - 1, SKEW + 1, -86_400, 86_400])
def test_a_clock_that_is_off_is_told_the_time(call: Callable[..., Any], seconds: int) -> None:
    async def use(device: Any) -> None:
        device.clock = lambda: NOW + seconds
        refused(await device.ask("GET", "/v1/job"), 401, "skew")
        device.clock = lambda: NOW + (SKEW if seconds > 0 else -SKEW)
        assert (await device.ask("GET", "/v1/job")).status_code == 200

    call(use)


def sign_for(server: bytes) -> dict[str, str]:
    return headers(keys("alice"), "alice", server, "GET", "/v1/job", b"", NOW)


FORGED: Mapping[str, Callable[[dict[str, str]], tuple[str, str, dict[str, str]]]] = {
    "another path": lambda signed: ("GET", "/v1/tasks", signed),
    "another query": lambda signed: ("GET", "/v1/job?x=1", signed),
    "another method": lambda signed: ("HEAD", "/v1/job", signed),
    "another client": lambda signed: ("GET", "/v1/job", {**signed, "Fedkit-Client": "bob"}),
    "another time": lambda signed: ("GET", "/v1/job", {**signed, "Fedkit-Time": str(NOW + 1)}),
    "another nonce": lambda signed: ("GET", "/v1/job", {**signed, "Fedkit-Nonce": "0" * 32}),
    "another aggregator": lambda signed: ("GET", "/v1/job", sign_for(keys("elsewhere").public)),
    "another signature": lambda signed: ("GET", "/v1/job", {**signed, "Fedkit-Signature": "0" * 128}),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_signature_holds_for_one_request_only(site: Any, call: Callable[..., Any], kind: str) -> None:
    async def use(device: Any) -> None:
        signed = sign_for(SERVER)
        method, target, changed = FORGED[kind](signed)
        got = await device.client.request(method, target, headers=changed)
        assert got.status_code == 401
        if method != "HEAD":
            refused(got, 401, "signature")
        assert site.journal.seen("alice") == 0.0, "a forged request is no sign of life"
        assert (await device.client.get("/v1/job", headers=signed)).status_code == 200

    call(use)


def test_a_replay_is_refused_also_after_a_restart(site: Any, call: Callable[..., Any]) -> None:
    signed = sign_for(SERVER)

    async def first(device: Any) -> None:
        assert (await device.client.get("/v1/job", headers=signed)).status_code == 200
        refused(await device.client.get("/v1/job", headers=signed), 401, "replay")

    async def second(device: Any) -> None:
        refused(await device.client.get("/v1/job", headers=signed), 401, "replay")

    call(first)
    site.again()
    call(second)


def test_a_body_that_was_not_signed(call: Callable[..., Any]) -> None:
    async def use(device: Any) -> None:
        signed = headers(keys("alice"), "alice", SERVER, "POST", "/v1/tasks", b"{}", NOW)
        refused(await device.client.post("/v1/tasks", headers=signed, content=b"[]"), 422, "body")

    call(use)


@pytest.mark.parametrize(("method", "size"), [("POST", bodies.JSON_LIMIT), *bodies.LIMITS.items()])
def test_bodies_are_bounded(call: Callable[..., Any], method: str, size: int) -> None:
    async def use(device: Any) -> None:
        refused(await device.ask(method, "/v1/uploads/00", bytes(size + 1)), 413, "size")
        got = await device.ask(method, "/v1/uploads/00", bytes(size))
        assert got.status_code in (400, 405) or "this job's" in got.text

    call(use)


async def send_raw(
    app: Any, method: str, given: Mapping[str, str], parts: list[bytes], read: list[int]
) -> int:
    """The status that raw ASGI messages are answered with; `read` counts the parts that were asked for."""
    status: list[int] = []

    async def receive() -> dict[str, Any]:
        read.append(1)
        if len(read) > len(parts):
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": parts[len(read) - 1], "more_body": True}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            status.append(message["status"])

    scope = {
        "type": "http",
        "method": method,
        "path": "/v1/tasks",
        "raw_path": b"/v1/tasks",
        "query_string": b"",
    }
    names = [(name.lower().encode(), value.encode()) for name, value in given.items()]
    await app({**scope, "headers": names}, receive, send)
    return status[0]


def test_no_byte_of_a_body_is_read_before_its_sender_and_its_length_are_known(site: Any) -> None:
    app, read = site.fresh_app().asgi, list[int]()

    def signed(**more: str) -> dict[str, str]:
        return {**headers(keys("alice"), "alice", SERVER, "POST", "/v1/tasks", b"{}", NOW), **more}

    cases = [
        (signed(**{"Content-Length": "2", "Fedkit-Signature": "0" * 128}), 401),
        (signed(), 411),
        (signed(**{"Content-Length": "-2"}), 411),
        (signed(**{"Content-Length": str(10**9)}), 413),
        (signed(**{"Content-Length": "2", "Transfer-Encoding": "chunked"}), 411),
    ]
    for given, status in cases:
        assert asyncio.run(send_raw(app, "POST", given, [b"{}"], read)) == status
    assert not read


def test_a_body_that_lies_about_its_length_or_drips_is_given_up(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = headers(keys("alice"), "alice", SERVER, "POST", "/v1/tasks", b"{}", NOW) | {"Content-Length": "2"}
    parts = [bytes(bodies.JSON_LIMIT)] * 3
    read = list[int]()
    assert asyncio.run(send_raw(site.fresh_app().asgi, "POST", given, parts, read)) == 413
    assert len(read) == 2
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)
    given = headers(keys("alice"), "alice", SERVER, "POST", "/v1/tasks", b"{}", NOW) | {"Content-Length": "2"}
    assert asyncio.run(send_raw(site.fresh_app().asgi, "POST", given, [b"{"], [])) == 408


def test_a_header_that_comes_twice(site: Any) -> None:
    given = headers(keys("alice"), "alice", SERVER, "POST", "/v1/tasks", b"{}", NOW) | {"Content-Length": "2"}
    twice = {**given, "fedkit-client": "bob"}
    assert asyncio.run(send_raw(site.fresh_app().asgi, "POST", twice, [b"{}"], [])) == 400


def test_the_version_before_ours_is_answered_in_its_own_words(
    site: Any, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours is 2 here: a device of version 1 is served, one of version 0 is told both."""
    monkeypatch.setattr("fedkit.aggregator.guard.VERSION", 2)
    monkeypatch.setattr("fedkit.aggregator.guard.VERSIONS", (1, 2))

    async def use(device: Any) -> None:
        got = await device.ask("GET", "/v1/job")
        assert (got.status_code, got.headers["fedkit-version"]) == (200, "1")
        old = await device.ask("GET", "/v1/job", change={"Fedkit-Version": "0"})
        assert (old.status_code, old.headers["fedkit-version"]) == (400, "2")
        assert old.json()["message"] == "the device speaks version '0', the aggregator 1 and 2"
        lying = await device.ask("GET", "/v1/job", change={"Fedkit-Version": "2"})
        assert lying.json()["error"] == "signature", "the version is part of what is signed"

    call(use)
    with site.journal.held() as db:
        assert db.execute("SELECT client, version FROM clients").fetchall() == [("alice", 1)]


def test_who_asks_too_often_is_told_when_to_come_again(
    call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedkit.aggregator.guard.BURST", 3.0)
    monkeypatch.setattr("fedkit.aggregator.guard.A_SECOND", 0.1)

    async def use(device: Any) -> None:
        statuses = [(await device.ask("GET", "/v1/job")).status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        got = await device.ask("GET", "/v1/job")
        refused(got, 429, "rate")
        assert 1 <= int(got.headers["retry-after"]) <= 10

    call(use)
