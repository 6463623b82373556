"""Enrolment: who has an invite is queued, who has a certificate is a client; everybody else is refused."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fedkit import wire
from fedkit.aggregator import enrol
from fedkit.aggregator.app import App
from fedkit.aggregator.enrol import Enrolment
from fedkit.aggregator.guard import STRANGE_LIMIT
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.refusal import Refusal
from fedkit.aggregator.seats import Seats
from fedkit.aggregator.status import standing
from fedkit.ca.authority import Authority, make_authority
from fedkit.ca.invites import Invite
from fedkit.ca.mailbox import Mailbox
from fedkit.ca.requests import Grant, Request, make_request, read_grant, read_request
from fedkit.ca.succession import announce
from fedkit.errors import ConfigError
from fedkit.federation import Verdict
from fedkit.messages import Failure
from fedkit.secagg.identity import SigningKey, Trust
from fedkit.signing import content_digest, headers

SERVER, KEY, OTHER = SigningKey(bytes(range(32))), SigningKey(b"k" * 32), SigningKey(b"o" * 32)
START = datetime(2026, 11, 20, 12, tzinfo=UTC)


@dataclass
class Town:
    """An aggregator, a CA apart from it, and one clock."""

    folder: Path
    now: datetime = START

    def __post_init__(self) -> None:
        make_authority(self.folder / "ca", lambda: self.now)
        self.authority = Authority(self.folder / "ca", lambda: self.now)
        self.trust = Trust.of_ca(self.authority.public, SERVER.public)
        self.journal = Journal(self.folder / "journal")
        self.journal.put(job=b"{}", job_id="0")
        self.open()

    def open(self, room: int = 0) -> Enrolment:
        self.enrolment = Enrolment(self.journal, self.trust, room, lambda: self.now.timestamp())
        return self.enrolment

    def again(self) -> Enrolment:
        self.journal.close()
        self.journal = Journal(self.folder / "journal")
        return self.open()

    def close(self) -> None:
        self.journal.close()
        self.authority.__exit__(None, None, None)

    @property
    def box(self) -> Mailbox:
        return Mailbox(self.journal.directory / "enrol")

    def invite(self, client: str = "ward 7") -> Invite:
        return self.authority.invite(client, "https://h:1", SERVER.public)

    def request(self, client: str = "ward 7", key: SigningKey = KEY) -> Request:
        invite = self.invite(client)
        return make_request(client, key, invite.once, invite.expires, invite.sanction)

    def renewal(self, key: SigningKey = KEY, by: SigningKey = KEY) -> Request:
        return make_request("ward 7", key, by, int(self.now.timestamp()) + 9999)

    def approve(self) -> None:
        for _, data in list(self.box.requests()):
            grant = self.authority.answer(read_request(data))
            self.box.tell(grant.id, grant.data())

    def join(self, client: str = "ward 7", key: SigningKey = KEY) -> str:
        name = self.enrolment.take(self.request(client, key).data())
        self.approve()
        assert self.enrolment.answer(name) is not None
        return name

    def later(self, days: float) -> None:
        self.now += timedelta(days=days)


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrol, "LOOK", 0.0)


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path)
    yield made
    made.close()


def refused(call: Callable[[], object], status: int, word: str) -> None:
    with pytest.raises(Refusal) as got:
        call()
    assert (got.value.status, got.value.word) == (status, word)


def test_a_device_becomes_a_client_also_across_restarts(town: Town) -> None:
    enrolment = town.enrolment
    assert enrolment.key("ward 7") is None
    name = enrolment.take(town.request().data())
    assert (enrolment.answer(name), enrolment.pending(), enrolment.clients()) == (None, ["ward 7"], [])
    enrolment = town.again()
    town.approve()
    grant = enrolment.answer(name)
    assert grant is not None
    assert town.trust.vouches("ward 7", KEY.public, grant.voucher)
    assert enrolment.key("ward 7") == KEY.public
    assert not list(town.box.requests())
    enrolment = town.again()
    assert (enrolment.clients(), enrolment.pending()) == (["ward 7"], [])
    assert enrolment.answer(name) == grant


def test_an_invite_is_used_once_also_across_restarts(town: Town) -> None:
    invite = town.invite()
    first = make_request("ward 7", KEY, invite.once, invite.expires, invite.sanction)
    assert town.enrolment.take(first.data()) == town.enrolment.take(first.data())
    second = make_request("ward 7", OTHER, invite.once, invite.expires, invite.sanction)
    refused(lambda: town.again().take(second.data()), 409, "used")
    assert town.enrolment.pending() == ["ward 7"]


def test_forged_requests_are_refused_and_not_kept(town: Town) -> None:
    request = town.request()
    forged = [
        replace(request, key=OTHER.public),
        replace(request, client="ward 8"),
        replace(request, proof=bytes(64)),
        replace(request, possession=bytes(64)),
        replace(request, sanction=bytes(64)),
        make_request("ward 7", KEY, OTHER, request.until, request.sanction),
    ]
    for bad in forged:
        refused(lambda bad=bad: town.enrolment.take(bad.data()), 403, "invite")  # type: ignore[misc]
    town.later(8)
    refused(lambda: town.enrolment.take(request.data()), 403, "expired")
    assert not list(town.box.requests())


def test_an_invite_of_another_ca_is_refused(town: Town, tmp_path: Path) -> None:
    make_authority(tmp_path / "other", lambda: town.now)
    with Authority(tmp_path / "other", lambda: town.now) as other:
        invite = other.invite("ward 7", "https://h:1", SERVER.public)
    request = make_request("ward 7", KEY, invite.once, invite.expires, invite.sanction)
    refused(lambda: town.enrolment.take(request.data()), 403, "invite")


def test_answers_that_are_not_the_cas_are_dropped(
    town: Town, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = town.enrolment.take(town.request().data())
    other = town.authority.answer(town.request("ward 8", OTHER))
    make_authority(tmp_path / "false", lambda: town.now)
    with Authority(tmp_path / "false", lambda: town.now) as false:
        invite = false.invite("ward 7", "https://h:1", SERVER.public)
        made = false.answer(make_request("ward 7", KEY, invite.once, invite.expires, invite.sanction))
    good = town.authority.answer(next(read_request(data) for _, data in town.box.requests()))
    answers = [
        b"junk",
        other.data(),
        replace(other, id=name).data(),
        replace(made, id=name).data(),
        replace(good, voucher=bytes(64)).data(),
    ]
    for data in answers:
        town.box.tell(name, data)
        assert town.enrolment.answer(name) is None
        assert not list(town.box.answers())
    assert caplog.text.count("is dropped") == len(answers)
    town.box.tell(name, good.data())
    assert town.enrolment.answer(name) == good


def test_a_refusal_of_the_ca_is_told(town: Town) -> None:
    name = town.enrolment.take(town.request().data())
    town.box.tell(name, Grant(name, refused="not today").data())
    refused(lambda: town.enrolment.answer(name), 403, "refused")
    assert town.enrolment.pending() == []


def test_revoked_and_expired_are_told_apart(town: Town) -> None:
    town.join()
    town.join("ward 8", OTHER)
    town.authority.revoke("ward 7")
    town.box.put("crl.pem", (town.folder / "ca" / "crl.pem").read_bytes())
    refused(lambda: town.enrolment.demand("ward 7"), 403, "revoked")
    assert town.enrolment.clients() == ["ward 8"]
    refused(lambda: town.again().demand("ward 7"), 403, "revoked")
    town.later(181)
    refused(lambda: town.enrolment.demand("ward 8"), 403, "expired")
    assert town.enrolment.clients() == []
    assert town.enrolment.seats() == Seats(0, ("ward 8",), (), ("ward 7",)), "who has expired may come back"
    town.join("ward 8", OTHER)
    assert town.enrolment.key("ward 8") == OTHER.public


def test_who_only_looks_sees_a_revocation_and_the_log_has_it_once(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    town.join()
    town.join("ward 8", OTHER)
    for client in ("ward 7", "ward 8"):
        town.authority.revoke(client)
        town.box.put("crl.pem", (town.folder / "ca" / "crl.pem").read_bytes())
        town.enrolment.seats()
        assert caplog.text.count(f"client '{client}' was revoked") == 1
    assert caplog.text.count("was revoked") == 2
    known = standing(town.journal.directory, ["ward 7", "ward 8"])["clients"]
    assert [row["revoked"] for row in known] == [True, True]


def test_a_list_of_revocations_does_not_go_back(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    town.join()
    before = (town.folder / "ca" / "crl.pem").read_bytes()
    town.authority.revoke("ward 7")
    for data in ((town.folder / "ca" / "crl.pem").read_bytes(), before, b"junk"):
        town.box.put("crl.pem", data)
        refused(lambda: town.enrolment.demand("ward 7"), 403, "revoked")
    assert "older" in caplog.text
    assert "not a list" in caplog.text


def test_a_ca_that_was_put_back_from_a_copy_revokes_no_less_than_before(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    """It has forgotten a revocation, and its next list has the number of one that was taken."""
    town.join()
    town.join("ward 8", OTHER)
    ledger = town.folder / "ca" / "ledger.jsonl"
    before = ledger.read_bytes()
    town.authority.revoke("ward 7")
    town.box.put("crl.pem", town.authority.publish())
    assert town.enrolment.clients() == ["ward 8"]
    town.authority.__exit__(None, None, None)
    ledger.write_bytes(before)
    town.authority = Authority(town.folder / "ca", lambda: town.now)
    town.later(1)
    town.authority.revoke("ward 8")
    town.box.put("crl.pem", town.authority.publish())
    for name in ("ward 7", "ward 8"):
        refused(lambda name=name: town.enrolment.demand(name), 403, "revoked")  # type: ignore[misc]
    assert "lacks 1 that it had revoked" in caplog.text
    refused(lambda: town.again().demand("ward 7"), 403, "revoked")


def test_a_copy_lets_nobody_in_before_the_ca_has_said_who_was_revoked_since(town: Town) -> None:
    """Else a stolen device would be back with the backup."""
    town.join()
    town.later(1)
    town.box.put("crl.pem", town.authority.publish())
    town.journal.put(copied=town.now.timestamp())
    with pytest.raises(ConfigError, match="is a copy of 2026-11-21 12:00 UTC, and knows nobody"):
        town.again()
    town.journal.put(copied=0.0)
    assert town.again().clients() == ["ward 7"]
    town.journal.put(copied=town.now.timestamp() - 3600)
    with pytest.raises(ConfigError, match="is a copy"):  # the clock of the CA is fast: it had this list
        town.again()
    town.later(1)
    town.authority.revoke("ward 7")
    town.box.put("crl.pem", (town.folder / "ca" / "crl.pem").read_bytes())
    refused(lambda: town.again().demand("ward 7"), 403, "revoked")
    refused(lambda: town.again().demand("ward 7"), 403, "revoked")


def test_a_list_without_anything_new_is_good_for_a_copy_and_an_older_one_is_not(town: Town) -> None:
    town.join()
    town.join("ward 8", OTHER)
    before = town.authority.publish()
    town.authority.revoke("ward 8")
    town.box.put("crl.pem", town.authority.publish())
    assert town.enrolment.clients() == ["ward 7"]
    town.journal.put(copied=town.now.timestamp() - 1.0)
    town.box.put("crl.pem", before)
    with pytest.raises(ConfigError, match="ca publish"):
        town.again()
    town.later(1)
    town.box.put("crl.pem", town.authority.publish())
    assert town.again().clients() == ["ward 7"]


def test_renewal_with_the_same_key_and_with_a_new_one(town: Town) -> None:
    town.join()
    town.later(90)
    name = town.enrolment.take(town.renewal().data())
    town.approve()
    assert town.enrolment.answer(name) is not None
    town.later(100)
    assert town.enrolment.key("ward 7") == KEY.public, "the first would have expired"
    name = town.enrolment.take(town.renewal(OTHER).data())
    town.approve()
    assert town.enrolment.key("ward 7") == KEY.public, "until the device has what it needs to use the new one"
    assert town.enrolment.answer(name) is not None
    assert town.enrolment.key("ward 7") == OTHER.public
    refused(lambda: town.enrolment.take(town.renewal(KEY, KEY).data()), 403, "invite")


def test_only_a_good_client_renews(town: Town) -> None:
    refused(lambda: town.enrolment.take(town.renewal().data()), 403, "invite")
    town.join()
    refused(lambda: town.enrolment.take(town.renewal(OTHER, OTHER).data()), 403, "invite")
    town.later(181)
    refused(lambda: town.enrolment.take(town.renewal().data()), 403, "expired")


def test_who_comes_after_the_last_place_waits_and_is_told(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    enrolment = town.open(room=1)
    town.join("b", KEY)
    town.join("a", OTHER)
    assert (enrolment.clients(), enrolment.seats()) == (["b"], Seats(1, ("b",), ("a",)))
    assert caplog.messages == [
        "no place for client 'a', all 1 are taken: revoke a device that is gone, or serve with more"
    ]
    enrolment.demand("b")
    refused(lambda: enrolment.demand("a"), 403, "full")
    assert standing(town.folder / "journal")["places"] == {"room": 1, "taken": 1, "free": 0, "waiting": ["a"]}


def test_who_has_no_place_renews_its_certificate_all_the_same(town: Town) -> None:
    town.open(room=1)
    town.join("b", OTHER)
    town.join("ward 7", KEY)
    name = town.enrolment.take(town.renewal().data())
    town.approve()
    assert town.enrolment.answer(name) is not None


def test_a_revoked_device_leaves_its_place_to_the_next_and_an_expired_one_does_not(town: Town) -> None:
    enrolment = town.open(room=2)
    for client in ("a", "b", "c"):
        town.join(client, SigningKey.new())
    town.later(181)
    town.join("b", SigningKey.new())
    assert enrolment.seats().held == ("a", "b"), "a has expired"
    refused(lambda: enrolment.demand("c"), 403, "expired")
    town.join("c", SigningKey.new())
    refused(lambda: enrolment.demand("c"), 403, "full")
    town.authority.revoke("a")
    town.box.put("crl.pem", (town.folder / "ca" / "crl.pem").read_bytes())
    assert enrolment.clients() == ["b", "c"]
    enrolment.demand("c")
    assert standing(town.folder / "journal")["places"] == {"room": 2, "taken": 2, "free": 0, "waiting": []}
    town.join("a", SigningKey.new())
    refused(lambda: enrolment.demand("a"), 403, "full")
    assert (town.open(room=2).clients(), town.open(room=3).clients()) == (["b", "c"], ["a", "b", "c"])


@pytest.mark.parametrize("same", [False, True])
def test_another_device_of_the_same_name_goes_on_with_nothing_of_the_one_before(
    site: Any, town: Town, same: bool
) -> None:
    """One that was revoked and has joined again with its own key goes on with all of it."""
    town.journal.close()
    town.journal = site.journal
    town.open()
    town.join("alice", KEY)
    tasks = [site.task("alice", round) for round in range(3)]
    site.federation.send(tasks)
    site.deliver(tasks[1])
    told = site.leases.news("alice")[1]
    site.leases.acknowledge("alice", [lease.id for lease in told], [])
    frame = wire.encode(Failure(tasks[2].key, "diverged"))
    digest = hashlib.sha256(frame).hexdigest()
    name, _ = site.uploads.begin("alice", tasks[2].key, len(frame), digest)
    site.uploads.append("alice", name, 0, frame[:5])
    site.federation.settle({tasks[0].key: Verdict.counted})
    town.authority.revoke("alice")
    town.box.put("crl.pem", (town.folder / "ca" / "crl.pem").read_bytes())
    refused(lambda: town.enrolment.demand("alice"), 403, "revoked")
    town.join("alice", KEY if same else OTHER)
    settled, leases = site.leases.news("alice")
    assert [key.round for key, _ in settled] == ([0] if same else [])
    assert len(leases) == (0 if same else 1), "the task without a result is offered to the new device"
    assert site.uploads.begin("alice", tasks[2].key, len(frame), digest)[1] == (5 if same else 0)
    assert [arrival.key.round for arrival in site.federation.receive(site.federation.now())] == [1]


def strange(body: bytes) -> dict[str, str]:
    return {"Fedkit-Version": "1", "Content-Digest": content_digest(body)}


def test_the_routes_of_enrolment(
    town: Town, call: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    app = App(town.journal, town.enrolment, clock=lambda: town.now.timestamp())
    request = town.request()
    body = request.data()

    async def use(device: Any) -> None:
        web = device.client
        got = await web.post("/v1/enrol", content=body, headers=strange(body))
        assert (got.status_code, got.json()) == (202, {"id": request.id})
        wait = await web.get(f"/v1/enrol/{request.id}", headers=strange(b""))
        assert (wait.status_code, wait.json(), wait.headers["fedkit-version"]) == (
            202,
            {"id": request.id},
            "1",
        )
        town.approve()
        answer = await web.get(f"/v1/enrol/{request.id}", headers=strange(b""))
        assert answer.status_code == 200
        assert read_grant(answer.content).id == request.id
        unknown = await web.get("/v1/enrol/" + "0" * 64, headers=strange(b""))
        assert (unknown.status_code, unknown.json()["error"]) == (404, "unknown")
        signed = headers(KEY, "ward 7", town.trust.server, "GET", "/v1/job", b"", town.now.timestamp())
        assert (await web.get("/v1/job", headers=signed)).status_code == 200

    call(use, app=app)
    assert f"client 'ward 7' asks for a certificate: request {request.id[:16]}" in caplog.messages
    assert not [text for text in caplog.messages if request.proof.hex() in text]


def test_strangers_are_bounded_and_get_no_further(town: Town, call: Callable[..., Any]) -> None:
    app = App(town.journal, town.enrolment, clock=lambda: town.now.timestamp())

    async def use(device: Any) -> None:
        web = device.client
        for body, status, word in (
            (b"x" * (STRANGE_LIMIT + 1), 413, "size"),
            (b"[" * 4000, 400, "request"),
            (b"{}", 400, "request"),
            (json.dumps({"client": "\ud800"}).encode(), 400, "request"),
        ):
            got = await web.post("/v1/enrol", content=body, headers=strange(body))
            assert (got.status_code, got.json()["error"]) == (status, word)
        other = await web.post("/v1/enrol", content=b"{}", headers=strange(b"[]"))
        assert (other.status_code, other.json()["error"]) == (422, "body")
        for headless in ({"Fedkit-Version": "1"}, {"Content-Digest": content_digest(b"")}):
            assert (await web.get("/v1/enrol/x", headers=headless)).status_code == 400
        for path in ("/v1/enrolment", "/v1/enrol/../job", "/v1/tasks"):
            got = await web.get(path, headers=strange(b""))
            assert (got.status_code, got.json()["error"]) == (400, "headers")

    call(use, app=app)


def test_with_a_roster_nobody_enrols(site: Any, call: Callable[..., Any], town: Town) -> None:
    body = town.request().data()

    async def use(device: Any) -> None:
        got = await device.client.post("/v1/enrol", content=body, headers=strange(body))
        assert (got.status_code, got.json()["error"]) == (404, "request")

    call(use)


def test_while_a_ca_takes_over_both_are_believed(
    town: Town, tmp_path: Path, call: Callable[..., Any]
) -> None:
    town.join()
    made = town.authority.succeed(tmp_path / "new")
    town.authority.__exit__(None, None, None)
    town.authority = Authority(tmp_path / "new", lambda: town.now)
    app = App(town.journal, town.enrolment, clock=lambda: town.now.timestamp())

    async def ask(device: Any) -> None:
        got = await device.client.get("/v1/enrol/next", headers=strange(b""))
        assert (got.status_code, got.content if got.status_code == 200 else b"") == wanted

    wanted = 404, b""
    call(ask, app=app)
    town.box.put("next-ca.json", announce(OTHER, KEY, made.until).data())
    call(ask, app=app)
    town.box.put("next-ca.json", made.data())
    wanted = 200, made.data()
    call(ask, app=app)
    assert app._news.read("ward 7", 0)["ca"] == made.ca.hex()
    assert town.enrolment.trust.cas == (made.before, made.ca)
    town.later(90)
    name = town.enrolment.take(town.renewal().data())
    town.approve()
    assert town.enrolment.answer(name) is not None
    town.authority.revoke("ward 7")
    town.box.put("crl.pem", (tmp_path / "new" / "crl.pem").read_bytes())
    refused(lambda: town.enrolment.demand("ward 7"), 403, "revoked")
    assert town.enrolment.answer(name) is not None
    town.trust = Trust.of_ca(KEY.public, SERVER.public)
    refused(lambda: town.open().answer(name), 403, "expired")


def test_when_its_time_is_over_the_old_ca_is_believed_no_more(
    town: Town, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its certificates may be good for longer; the aggregator runs on all the time."""
    invite = town.authority.invite("ward 8", "https://h:1", SERVER.public, timedelta(days=60))
    waiting = make_request("ward 8", OTHER, invite.once, invite.expires, invite.sanction)
    first = town.join()
    made = town.authority.succeed(tmp_path / "new", timedelta(days=30))
    town.box.put("next-ca.json", made.data())
    town.later(29)
    assert town.enrolment.clients() == ["ward 7"]
    town.later(2)
    refused(lambda: town.enrolment.demand("ward 7"), 403, "expired")
    refused(lambda: town.enrolment.answer(first), 403, "expired")
    refused(lambda: town.enrolment.take(waiting.data()), 403, "invite")
    assert town.enrolment.clients() == []
    assert town.enrolment.trust.cas == (made.ca,)
    assert "it alone is believed" in caplog.text
    town.authority.__exit__(None, None, None)
    town.authority = Authority(tmp_path / "new", lambda: town.now)
    for enrolment in (town.enrolment, town.again()):
        refused(lambda enrolment=enrolment: enrolment.demand("ward 7"), 403, "expired")  # type: ignore[misc]
    town.join()
    assert town.enrolment.key("ward 7") == KEY.public, "who has expired joins again"


def test_a_fleet_is_taken_in_parts(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrol, "AT_ONCE", 2)
    names = [f"pi-{number}" for number in range(5)]
    for name in names:
        town.enrolment.take(town.request(name, SigningKey.new()).data())
    town.approve()
    assert [len(town.enrolment.clients()) for _ in range(4)] == [2, 4, 5, 5]
    assert not [*town.box.requests(), *town.box.answers()]


def test_a_device_waits_for_one_renewal(town: Town) -> None:
    town.join()
    asked = [make_request("ward 7", KEY, KEY, 4_000_000_000 + number) for number in range(20)]
    for request in asked:
        town.enrolment.take(request.data())
    assert [name for name, _ in town.box.requests()] == [asked[-1].id]
    assert list(town.enrolment.pending()) == ["ward 7"]
    refused(lambda: town.enrolment.answer(asked[0].id), 404, "unknown")
    town.approve()
    assert town.enrolment.answer(asked[-1].id) is not None
