"""Who asks too much for certificates waits, and nobody else does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from starlette.applications import Starlette

from fedkit.aggregator import enrolling
from fedkit.aggregator.enrol import Enrolment
from fedkit.aggregator.enrolling import Patience, neighbourhood, routes
from fedkit.aggregator.refusal import HANDLERS, Refusal


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolling, "EACH", (1e-3, 2.0))
    monkeypatch.setattr(enrolling, "ALL", (1e-3, 7.0))


def waits(patience: Patience, host: str) -> bool:
    try:
        patience.demand(host)
    except Refusal as error:
        return (error.status, error.word, int(error.headers["Retry-After"]) > 1) == (429, "rate", True)
    return False


def test_one_that_is_noisy_keeps_nobody_from_enrolling(slow: None) -> None:
    patience = Patience()
    assert [waits(patience, "192.0.2.1") for _ in range(9)] == [False] * 2 + [True] * 7
    assert not waits(patience, "192.0.2.2")
    assert not waits(patience, "2001:db8::1")


def test_all_together_are_bounded_too(slow: None) -> None:
    patience = Patience()
    assert [waits(patience, f"192.0.2.{n}") for n in range(9)] == [False] * 7 + [True] * 2


@pytest.mark.parametrize(
    ("hosts", "count"),
    [
        (["192.0.2.1", "192.0.2.2"], 2),
        (["2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"], 2),
        (["::ffff:192.0.2.1", "192.0.2.1"], 1),
        (["fe80::1%eth0", "not an address"], 2),
    ],
)
def test_of_ipv6_one_party_has_a_whole_network(hosts: Sequence[str], count: int) -> None:
    assert len({neighbourhood(host) for host in hosts}) == count


def test_every_route_asks_for_patience(slow: None) -> None:
    def refuse(*_: object) -> Any:
        raise Refusal(404, "unknown", "there is none")

    enrolment = cast("Enrolment", SimpleNamespace(take=refuse, answer=refuse, succession=refuse))

    async def ask() -> list[int]:
        app = Starlette(routes=routes(enrolment), exception_handlers=dict(HANDLERS))
        found = []
        for number, (method, path) in enumerate(
            [("POST", "/v1/enrol"), ("GET", "/v1/enrol/next"), ("GET", "/v1/enrol/ab")]
        ):
            way = httpx.ASGITransport(_with_body(app), client=(f"192.0.2.{number}", 1))
            async with httpx.AsyncClient(transport=way, base_url="http://edge") as client:
                found += [(await client.request(method, path)).status_code for _ in range(3)]
        return found

    assert asyncio.run(ask()) == [404, 404, 429] * 3


def _with_body(app: Starlette) -> Any:
    async def asked(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "fedkit.body": b""}, receive, send)

    return asked
