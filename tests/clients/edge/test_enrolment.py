"""A device joins, renews and changes its key, whatever stands between it and the CA."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from fedkit import keyfile
from fedkit.ca.authority import Authority, make_authority
from fedkit.ca.certificates import read_certificate
from fedkit.ca.invites import Invite
from fedkit.ca.requests import Grant, Request, make_request, read_request
from fedkit.ca.succession import FILE, Succession, announce
from fedkit.errors import ConfigError
from fedkit.runfolder import lock_file
from fedkit.secagg.identity import SigningKey
from fedkit_clients.edge import enrolment
from fedkit_clients.edge.answers import Unreachable
from fedkit_clients.edge.audit import Audit
from fedkit_clients.edge.enrolment import Desk, join, rotate
from fedkit_clients.edge.membership import READY, VOUCHER, Membership, keep, member, read_membership
from fedkit_clients.edge.renewal import DAY, EVERY, Renewal
from fedkit_clients.edge.root import Root
from tests.clients.edge.overhttpx import OverHttpx

SERVER = SigningKey(bytes(range(32)))
START = datetime(2026, 11, 20, 12, tzinfo=UTC)
ADDRESS = "https://127.0.0.1:1"


def told(status: int, content: object) -> httpx.Response:
    """An answer whose body is still to be read."""
    marks = {"Fedkit-Version": "1", "Fedkit-Time": "1"}
    return httpx.Response(status, headers=marks, stream=httpx.ByteStream(json.dumps(content).encode()))


@dataclass
class Town:
    """A CA, and an aggregator that passes on, or does not; `approves`: the CA answers at once."""

    folder: Path
    now: datetime = START
    approves: bool = True
    lie: Callable[[Grant], Grant] = field(default=lambda grant: grant)
    fault: Callable[[httpx.Request], httpx.Response | None] = field(default=lambda _: None)
    heir: Succession | None = None
    asked: dict[str, Request] = field(default_factory=dict)
    headers: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        make_authority(self.folder / "ca", lambda: self.now)
        self.authority = Authority(self.folder / "ca", lambda: self.now)

    def invite(self, client: str = "ward 7") -> Invite:
        return self.authority.invite(client, ADDRESS, SERVER.public)

    @property
    def way(self) -> OverHttpx:
        return OverHttpx(self.handle)

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.headers.append(sorted(request.headers))
        if made := self.fault(request):
            return made
        if request.method == "POST":
            found = read_request(request.content)
            self.asked[found.id] = found
            return told(202, {"id": found.id})
        name = request.url.path.rpartition("/")[2]
        if name == "next":
            heir = self.heir
            return (
                told(200, json.loads(heir.data())) if heir else told(404, {"error": "unknown", "message": ""})
            )
        if not self.approves:
            return told(202, {"id": name})
        grant = self.lie(self.authority.answer(self.asked[name]))
        if grant.refused:
            return told(403, {"error": "refused", "message": grant.refused})
        return told(200, json.loads(grant.data()))

    def join(self, directory: Path, invite: Invite | None = None, wait: float = 0.0) -> Membership:
        token = (invite or self.invite()).token()
        clock = lambda: self.now.timestamp()  # noqa: E731
        join(token, directory, wait, way=self.way, clock=clock, sleep=lambda _: None)
        return read_membership(directory)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "POLL", (0.0, 0.0))


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    """Its date is everybody's."""
    made = Town(tmp_path)
    monkeypatch.setattr("time.time", lambda: made.now.timestamp())
    yield made
    made.authority.__exit__(None, None, None)


def test_a_device_that_has_joined_is_all_it_must_be(town: Town, tmp_path: Path) -> None:
    made = town.join(tmp_path / "edge")
    assert (made.address, made.client) == (ADDRESS, "ward 7")
    assert (made.trust.ca, made.trust.server) == (town.authority.public, SERVER.public)
    assert made.trust.vouches("ward 7", made.key.public, made.voucher)
    assert made.identity.voucher == made.voucher
    assert made.half == (START + timedelta(days=90)).timestamp()
    assert {path.name for path in (tmp_path / "edge").iterdir()} == {
        *("aggregator.toml", "certificate.pem", "identity.pem", "lock", "trust.toml", "voucher")
    }
    assert (tmp_path / "edge").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "edge" / "identity.pem").stat().st_mode & 0o777 == 0o600
    assert all("user-agent" not in names and "accept" not in names for names in town.headers)


def test_an_aggregator_that_has_moved_is_found_and_still_known_by_its_key(town: Town, tmp_path: Path) -> None:
    edge, nobody = tmp_path / "edge", tmp_path / "roster.toml"
    made = town.join(edge)
    found = member(edge, "https://elsewhere:8471", nobody)
    assert (found.address, found.key.public) == ("https://elsewhere:8471", made.key.public)
    assert (found.trust, found.voucher) == (made.trust, made.voucher)
    assert member(edge).address == read_membership(edge).address == "https://elsewhere:8471", "it is kept"
    for wrong in ("http://elsewhere:1", "elsewhere:1", "https://elsewhere:1/path"):
        with pytest.raises(ConfigError, match="write https://HOST:PORT"):
            member(edge, wrong, nobody)
    assert read_membership(edge).trust.server == SERVER.public
    assert read_membership(edge).address == "https://elsewhere:8471"


def test_the_key_stays_on_the_device_and_the_one_time_key_too(town: Town, tmp_path: Path) -> None:
    sent: list[bytes] = []

    def listen(request: httpx.Request) -> None:
        sent.append(request.content + str(request.url).encode())

    town.fault, invite = listen, town.invite()
    made = town.join(tmp_path / "edge", invite)
    for secret in (made.key.secret, invite.seed):
        assert not [data for data in sent if secret in data or secret.hex().encode() in data]


def test_it_waits_for_the_ca_and_goes_on_when_run_again(town: Town, tmp_path: Path) -> None:
    town.approves, invite = False, town.invite()
    with pytest.raises(Unreachable, match="run it again"):
        town.join(tmp_path / "edge", invite)
    town.approves = True
    town.join(tmp_path / "edge", invite)
    assert len(town.asked) == 1, "the same key, the same request"


def test_a_link_that_breaks_is_tried_again(town: Town, tmp_path: Path) -> None:
    count = [0]

    def broken(request: httpx.Request) -> httpx.Response | None:
        count[0] += 1
        if count[0] == 1:
            raise httpx.ConnectError("no link")
        return {2: told(502, ""), 3: told(429, {"error": "rate", "message": ""})}.get(count[0])

    town.fault = broken
    assert town.join(tmp_path / "edge", wait=600.0).client == "ward 7"
    assert count[0] == 6


def test_an_aggregator_that_lies_is_found_out(town: Town, tmp_path: Path) -> None:
    make_authority(tmp_path / "own", lambda: town.now)
    with Authority(tmp_path / "own", lambda: town.now) as own:
        invite = own.invite("ward 7", ADDRESS, SERVER.public)
        key = SigningKey(b"m" * 32)
        false = own.answer(make_request("ward 7", key, invite.once, invite.expires, invite.sanction))
    other = town.invite("ward 8")
    another = town.authority.answer(make_request("ward 8", key, other.once, other.expires, other.sanction))
    lies: dict[str, Callable[[Grant], Grant]] = {
        "not of the CA": lambda _: false,
        "another client or key": lambda _: another,
        "voucher": lambda grant: replace(grant, voucher=bytes(64)),
    }
    for match, lie in lies.items():
        town.lie = lie
        with pytest.raises(ConfigError, match=match):
            town.join(tmp_path / "edge")
        assert not (tmp_path / "edge" / "aggregator.toml").exists()


def test_a_refusal_is_told(town: Town, tmp_path: Path) -> None:
    town.lie = lambda grant: Grant(grant.id, refused="not in this hospital")
    with pytest.raises(ConfigError, match=r"cannot join.*not in this hospital"):
        town.join(tmp_path / "edge")


def test_a_folder_is_of_one_client(town: Town, tmp_path: Path) -> None:
    first = town.join(tmp_path / "edge")
    with pytest.raises(ConfigError, match="is that of client 'ward 7'"):
        town.join(tmp_path / "edge", town.invite("ward 8"))
    (tmp_path / "edge" / "spool").mkdir()
    town.now += timedelta(days=400)
    again = town.join(tmp_path / "edge")
    assert (again.key.public, again.half > first.half) == (first.key.public, True)
    assert (tmp_path / "edge" / "spool").exists(), "who has expired joins again and keeps its spool"


def test_a_crash_between_two_files_is_finished(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    town.join(tmp_path / "edge")
    town.now += timedelta(days=100)
    real, left = Path.replace, [4]

    def stumbling(self: Path, target: Path) -> Path:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stumbling)
        with pytest.raises(KeyboardInterrupt):
            town.join(tmp_path / "edge")
    assert (tmp_path / "edge" / READY / VOUCHER).exists()
    assert read_membership(tmp_path / "edge").half == (town.now + timedelta(days=90)).timestamp()
    assert (tmp_path / "edge" / READY).exists(), "who only reads moves nothing"
    Root(tmp_path / "edge").close()
    assert read_membership(tmp_path / "edge").half == (town.now + timedelta(days=90)).timestamp()
    assert not (tmp_path / "edge" / READY).exists()


def test_damage_is_told(town: Town, tmp_path: Path) -> None:
    town.join(tmp_path / "edge")
    for name, data in (
        ("voucher", "zz"),
        ("voucher", "00" * 64),
        ("certificate.pem", "junk"),
        ("aggregator.toml", 'address = "https://h:1"\nclient = "c"\nmore = 1\n'),
        ("aggregator.toml", "client = 5\n"),
    ):
        whole = (tmp_path / "edge" / name).read_text()
        (tmp_path / "edge" / name).write_text(data)
        with pytest.raises(ConfigError):
            read_membership(tmp_path / "edge")
        (tmp_path / "edge" / name).write_text(whole)
    assert read_membership(tmp_path / "edge").client == "ward 7"


@dataclass
class Clock:
    unix: float
    steady: float = 0.0


def renewing(
    town: Town, folder: Path, audit: Audit | None = None, own: float | None = None
) -> tuple[Renewal, Clock]:
    """own: what the device's clock says; None: the time of the town, as the aggregator's."""
    held, clock = read_membership(folder), Clock(town.now.timestamp())

    def desk() -> Desk:
        return Desk(ADDRESS, SERVER.public, way=town.way, audit=audit)

    def ahead() -> float:
        return town.now.timestamp() - clock.unix if own is not None else 0.0

    clock.unix = clock.unix if own is None else own
    return Renewal(folder, held, desk, lambda: clock.unix, lambda: clock.steady, ahead), clock


def test_a_certificate_is_renewed_when_it_is_half_over(town: Town, tmp_path: Path) -> None:
    folder = tmp_path / "edge"
    first = town.join(folder)
    renewal, clock = renewing(town, folder, Audit(tmp_path / "audit"))
    town.asked.clear()
    renewal.look()
    assert not town.asked
    clock.steady += DAY
    town.now += timedelta(days=90)
    clock.unix, town.approves = town.now.timestamp(), False
    for _ in range(3):
        renewal.look()
    assert (len(town.asked), read_membership(folder).half) == (1, first.half)
    town.approves = True
    clock.steady += EVERY
    renewal.look()
    made = read_membership(folder)
    assert made.half > first.half + 80 * 86_400
    assert (made.key.public, made.voucher) == (first.key.public, first.voucher)
    (request,) = town.asked.values()
    assert request.by == first.key.public
    assert not (folder / "renewal.json").exists()
    assert "POST /v1/enrol" in (tmp_path / "audit").read_text()
    clock.steady += EVERY
    renewal.look()
    assert len(town.asked) == 1


def test_a_device_whose_own_clock_is_wrong_by_years_renews_in_time(town: Town, tmp_path: Path) -> None:
    """By the aggregator's, as soon as that is known; until then it looks again each day."""
    folder = tmp_path / "edge"
    first = town.join(folder)
    renewal, clock = renewing(town, folder, own=4e9)
    town.asked.clear()
    renewal.look()
    assert not town.asked, "it is not half over yet"
    clock.unix, clock.steady = 0.0, clock.steady + DAY
    town.now += timedelta(days=90)
    renewal.look()
    (request,) = town.asked.values()
    assert request.until > town.now.timestamp(), "or it would be refused as over"
    assert read_membership(folder).half > first.half + 80 * 86_400
    clock.steady += DAY
    renewal.look()
    assert len(town.asked) == 1


def test_a_renewal_that_fails_stops_nothing(
    town: Town, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    town.join(tmp_path / "edge")
    renewal, clock = renewing(town, tmp_path / "edge")
    caplog.set_level("INFO", "fedkit.edge")
    town.fault = lambda _: told(503, "")
    renewal.look()
    assert not caplog.text, "it is not due"
    town.now += timedelta(days=90)
    clock.unix = town.now.timestamp()
    clock.steady += DAY
    renewal.look()
    assert "the CA cannot be asked" in caplog.text
    town.fault, town.lie = (lambda _: None), lambda grant: Grant(grant.id, refused="no")
    clock.steady += EVERY
    renewal.look()
    assert "cannot be renewed" in caplog.text
    town.lie = lambda grant: grant
    clock.steady += EVERY
    renewal.look()
    assert read_membership(tmp_path / "edge").half > clock.unix


def test_a_new_key_on_the_word_of_the_old_one(town: Town, tmp_path: Path) -> None:
    folder = tmp_path / "edge"
    first = town.join(folder)
    town.approves = False

    def turn() -> None:
        rotate(folder, 0.0, way=town.way, clock=lambda: town.now.timestamp())

    with pytest.raises(Unreachable, match="run it again"):
        turn()
    assert read_membership(folder).key.public == first.key.public
    with lock_file(folder / "lock"), pytest.raises(ConfigError, match="in use"):
        turn()
    town.approves = True
    turn()
    made = read_membership(folder)
    assert made.key.public != first.key.public
    certified = read_certificate(made.certificate, made.trust.cas)
    assert (certified.key, keyfile.read_key(folder).public) == (made.key.public, made.key.public)
    assert len(town.asked) == 2
    assert not (folder / "rotation").exists()


def take_over(town: Town, directory: Path) -> Succession:
    """Another CA takes over, and answers from now on."""
    town.heir = town.authority.succeed(directory)
    town.authority.__exit__(None, None, None)
    town.authority = Authority(directory, lambda: town.now)
    return town.heir


def test_a_new_ca_is_believed_on_the_word_of_both_and_then_alone(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, others = tmp_path / "edge", (SigningKey(b"z" * 32), SigningKey(b"y" * 32))
    first = town.join(folder)
    renewal, clock = renewing(town, folder)
    town.heir = announce(*others, 4_000_000_000)
    assert not renewal.look()
    assert renewal.due(town.heir.ca)
    assert not renewal.look()
    assert read_membership(folder).trust.next_ca == b"", "anybody could announce"
    assert not renewal.due(town.heir.ca), "it is asked once"
    heir = take_over(town, tmp_path / "new")
    assert renewal.due(heir.ca)
    assert renewal.look()
    assert read_membership(folder).trust.cas == (first.trust.ca, heir.ca)
    assert not renewal.due(heir.ca), "it is news once"
    town.now += timedelta(days=100)
    clock.unix, clock.steady = town.now.timestamp(), clock.steady + DAY
    assert renewal.look(), "another voucher"
    made = read_membership(folder)
    assert made.trust.cas == (first.trust.ca, heir.ca)
    assert read_certificate(made.certificate, (heir.ca,)).client == "ward 7"
    clock.unix, clock.steady = heir.until + 1.0, clock.steady + DAY
    town.fault = lambda _: told(503, "")
    assert renewal.look(), "its own clock tells it that the time of the old one is over"
    assert renewal.held.trust.cas == (heir.ca,)
    monkeypatch.setattr("time.time", lambda: heir.until + 1.0)
    assert read_membership(folder).trust.cas == (heir.ca,)
    keep(folder, read_membership(folder))
    assert read_membership(folder).trust.ca == heir.ca
    (folder / FILE).write_text("{}")
    with pytest.raises(ConfigError, match="remove it"):
        read_membership(folder)


def test_who_joins_while_a_ca_takes_over_believes_both(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early, old = town.invite("early"), town.join(tmp_path / "old")
    heir = take_over(town, tmp_path / "new")
    devices = {"early": town.join(tmp_path / "early", early)}
    devices["late"] = town.join(tmp_path / "late", town.invite("late"))
    for made in devices.values():
        assert made.trust.cas == (old.trust.ca, heir.ca)
        assert read_certificate(made.certificate, (heir.ca,)), "the new one certifies"
        assert made.trust.vouches("ward 7", old.key.public, old.voucher)
    rotate(tmp_path / "old", 0.0, way=town.way, clock=lambda: town.now.timestamp())
    assert read_membership(tmp_path / "old").trust.cas == (old.trust.ca, heir.ca)
    monkeypatch.setattr("time.time", lambda: heir.until + 1.0)
    for name in ("old", *devices):
        made = read_membership(tmp_path / name)
        assert made.trust.cas == (heir.ca,)
        assert not made.trust.vouches("ward 7", old.key.public, old.voucher)


def test_who_slept_while_a_ca_took_over_joins_again(town: Town, tmp_path: Path) -> None:
    folder = tmp_path / "edge"
    first, asleep = town.join(folder), town.join(tmp_path / "asleep")
    renewal, _ = renewing(town, folder)
    heir = take_over(town, tmp_path / "new")
    assert renewal.due(heir.ca)
    assert renewal.look(), "it has heard, and then slept"
    town.now += timedelta(days=366)
    with pytest.raises(ConfigError, match="join again"):
        read_membership(folder)
    assert read_membership(tmp_path / "asleep").trust.cas == (asleep.trust.ca,)
    for place in (folder, tmp_path / "asleep"):
        again = town.join(place)
        assert (again.key.public, again.trust.cas) == (read_membership(place).key.public, (heir.ca,))
    assert read_membership(folder).key.public == first.key.public


def test_a_third_ca_takes_over_from_the_second(town: Town, tmp_path: Path) -> None:
    folder = tmp_path / "edge"
    town.join(folder)
    renewal, clock = renewing(town, folder)
    second = take_over(town, tmp_path / "second")
    assert renewal.due(second.ca)
    assert renewal.look()
    for days in (100, 100, 90, 76):
        town.now += timedelta(days=days)
        clock.unix, clock.steady = town.now.timestamp(), clock.steady + days * DAY
        if days != 76:  # it hears nothing between the end of the overlap and what is announced then
            renewal.look()
    third = take_over(town, tmp_path / "third")
    assert renewal.due(third.ca)
    assert renewal.look()
    assert renewal.held.trust.cas == (second.ca, third.ca)
    assert read_membership(folder).trust.cas == (second.ca, third.ca)


def test_a_full_disk_at_renewal_stops_nothing(
    town: Town, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "edge"
    town.join(folder)
    renewal, clock = renewing(town, folder)
    town.now += timedelta(days=90)
    clock.unix = town.now.timestamp()
    (folder / "renewal.json.tmp").mkdir()  # nothing can be written there
    renewal.look()
    assert "cannot be renewed" in caplog.text
    (folder / "renewal.json.tmp").rmdir()
    clock.steady += EVERY
    renewal.look()
    assert read_membership(folder).half > clock.unix


def test_a_rotation_that_a_crash_left_behind_does_not_stand_for_the_next(town: Town, tmp_path: Path) -> None:
    folder = tmp_path / "edge"
    town.join(folder)
    before = keyfile.read_key(folder)
    keyfile.write_key(folder / "rotation", before)
    rotate(folder, 0.0, way=town.way, clock=lambda: town.now.timestamp())
    assert read_membership(folder).key.public != before.public


@pytest.mark.parametrize(
    "address",
    [
        *("http://h:1", "https://", "https://h:x", "https://[::1", "https://h:1/../x", "https://h:1?x=y"),
        *("https://me:pass@h:1", "\x00", "https://\u202e:1", "https://" + "a" * 3000, "https://xn--a:1"),
    ],
)
def test_an_invite_to_nowhere_is_told(town: Town, tmp_path: Path, address: str) -> None:
    token = town.authority.invite("ward 7", address, SERVER.public).token()
    with pytest.raises(ConfigError, match="is no address"):
        join(token, tmp_path / "edge", 0.0)
