"""A change of key that is killed at any write, or between two messages, is finished at the next start."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from fedkit import keyfile
from fedkit.ca.authority import Authority, make_authority
from fedkit.ca.certificates import read_certificate
from fedkit.ca.requests import Request, read_request
from fedkit.errors import ConfigError
from fedkit.secagg.identity import SigningKey
from fedkit_clients.edge.enrolment import REQUEST, ROTATION, Desk, join, rotate
from fedkit_clients.edge.membership import read_membership
from fedkit_clients.edge.renewal import EVERY, Renewal
from fedkit_clients.edge.root import Root
from tests.clients.edge.overhttpx import OverHttpx

SERVER = SigningKey(bytes(range(32)))
WRITES = ("fsync", "link", "mkdir", "rename", "replace", "rmdir", "unlink")


class Killed(BaseException):
    """The process is no more."""


def public(folder: Path) -> bytes:
    """The key that lies there."""
    return keyfile.read_key(folder).public


@dataclass
class Town:
    """A CA that answers at once unless it `refuses`, and an aggregator that passes on."""

    folder: Path
    refuses: bool = False
    asked: dict[str, Request] = field(default_factory=dict)
    before: Callable[[], None] = field(default=lambda: None)
    """Called before each message, and before each answer."""

    def __post_init__(self) -> None:
        make_authority(self.folder)
        self.authority = Authority(self.folder)

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.before()
        status, content = self._answer(request)
        self.before()
        body = httpx.ByteStream(json.dumps(content).encode())
        return httpx.Response(status, headers={"Fedkit-Version": "1"}, stream=body)

    def _answer(self, request: httpx.Request) -> tuple[int, object]:
        name = request.url.path.rpartition("/")[2]
        if request.method == "POST":
            found = read_request(request.content)
            self.asked[found.id] = found
            return 202, {"id": found.id}
        if name == "next":
            return 404, {"error": "unknown", "message": ""}
        if self.refuses:
            return 403, {"error": "refused", "message": "no"}
        return 200, json.loads(self.authority.answer(self.asked[name]).data())

    @property
    def way(self) -> OverHttpx:
        return OverHttpx(self.handle)

    def desk(self) -> Desk:
        return Desk("https://h:1", SERVER.public, way=self.way)

    def join(self, folder: Path, client: str) -> bytes:
        invite = self.authority.invite(client, "https://h:1", SERVER.public)
        join(invite.token(), folder, 0.0, way=self.way)
        return public(folder)

    def restart(self, folder: Path) -> Renewal:
        """The client, when it is started again and has looked once."""
        with closing(Root(folder)):
            renewal = Renewal(folder, read_membership(folder), self.desk)
            renewal.look()
        return renewal


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path / "ca")
    yield made
    made.authority.__exit__(None, None, None)


def killed_at(number: int, town: Town, patch: pytest.MonkeyPatch, act: Callable[[], None]) -> bool:
    """Whether `act` was killed before its write or message of this number; nothing is written after that."""
    left = [number]

    def step() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            step()
            return real(*given, **named)

        return call

    with patch.context() as inside:
        for name in WRITES:
            inside.setattr(os, name, dying(getattr(os, name)))
        inside.setattr(town, "before", step)
        try:
            act()
        except Killed:
            return True
    return False


def test_a_kill_at_each_write_and_message(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = 0
    for number in range(200):
        folder = tmp_path / f"d{number}"
        first = town.join(folder, f"d{number}")
        died = killed_at(number, town, monkeypatch, partial(rotate, folder, 0.0, way=town.way))
        begun = (folder / ROTATION / keyfile.NAME).exists() or public(folder) != first
        held = town.restart(folder).held
        assert (held.voucher, held.trust) == (read_membership(folder).voucher, read_membership(folder).trust)
        certified = read_certificate(held.certificate, held.trust.cas)
        assert certified.key == held.key.public == public(folder)
        assert (held.key.public != first) == begun, f"killed before step {number}"
        assert not (folder / REQUEST).exists()
        assert not (folder / ROTATION / keyfile.NAME).exists()
        finished += begun
        if not died:
            break
    assert not died
    assert finished > 20, "it had begun at most of them"


def test_the_client_goes_on_with_the_old_key_until_the_ca_has_answered(town: Town, tmp_path: Path) -> None:
    folder = tmp_path / "edge"
    first = town.join(folder, "ward 7")
    key, now = keyfile.own_key(folder / ROTATION), [0.0]
    away = OverHttpx(lambda _: httpx.Response(503, stream=httpx.ByteStream(b"")))
    way = [away]
    with closing(Root(folder)):
        held = read_membership(folder)
        renewal = Renewal(
            folder,
            held,
            lambda: Desk("https://h:1", SERVER.public, way=way[0]),
            steady=lambda: now[0],
        )
        assert not renewal.look()
        assert renewal.held.key.public == first
        way[0] = town.way
        assert not renewal.look(), "not at once"
        now[0] += EVERY
        assert renewal.look()
    assert renewal.held.key.public == key.public == public(folder)


@pytest.mark.parametrize("running", [True, False])
def test_a_key_that_the_ca_refuses_is_given_up(town: Town, tmp_path: Path, running: bool) -> None:
    folder = tmp_path / "edge"
    first = town.join(folder, "ward 7")
    town.refuses = True
    if running:
        keyfile.make_key(folder / ROTATION)
        town.restart(folder)
    else:
        with pytest.raises(ConfigError, match="cannot change its key"):
            rotate(folder, 0.0, way=town.way)
    assert not (folder / ROTATION).exists()
    town.refuses = False
    assert town.restart(folder).held.key.public == first
    rotate(folder, 0.0, way=town.way)
    assert public(folder) != first


def test_one_command_at_a_time_has_a_folder(town: Town, tmp_path: Path) -> None:
    folder, inside, go = tmp_path / "edge", threading.Event(), threading.Event()
    invite = town.authority.invite("ward 7", "https://h:1", SERVER.public).token()

    def hold() -> None:
        inside.set()
        assert go.wait(600)

    town.before = hold
    first = threading.Thread(target=join, args=(invite, folder, 60.0), kwargs={"way": town.way})
    first.start()
    assert inside.wait(600)
    other = town.authority.invite("ward 8", "https://h:1", SERVER.public).token()
    with pytest.raises(ConfigError, match="is in use: stop the client"):
        join(other, folder, 0.0, way=town.way)
    with pytest.raises(ConfigError, match="is in use: stop the client"):
        Root(folder)
    go.set()
    first.join(600)
    assert read_membership(folder).client == "ward 7"
    with closing(Root(folder)), pytest.raises(ConfigError, match="is in use: stop the client"):
        rotate(folder, 0.0, way=town.way)
