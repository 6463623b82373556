"""The CA: certifies once, on an invite or on the word of a good certificate, and forgets nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fedkit.ca.apart import demand_apart
from fedkit.ca.authority import OVERLAP, Authority, make_authority
from fedkit.ca.certificates import read_certificate, read_revocations
from fedkit.ca.requests import make_request
from fedkit.ca.succession import announce, read_succession
from fedkit.ca.texts import next_text
from fedkit.errors import ConfigError, CryptoError, WireError
from fedkit.secagg.identity import SigningKey, Trust

KEY, OTHER = SigningKey(b"k" * 32), SigningKey(b"o" * 32)
SERVER = SigningKey(bytes(range(32)))


def until(office: Any, days: int = 30) -> int:
    return int(office.now.timestamp()) + 86_400 * days


def test_an_invited_device_is_certified_for_both_worlds(office: Any) -> None:
    grant = office.authority.answer(office.request(office.invite(), KEY))
    made = read_certificate(grant.certificate.encode(), (office.authority.public,))
    assert (made.client, made.key, grant.refused) == ("ward 7", KEY.public, "")
    trust = Trust.of_ca(office.authority.public, SERVER.public)
    assert trust.vouches("ward 7", KEY.public, grant.voucher)
    assert not trust.vouches("ward 8", KEY.public, grant.voucher)


def test_the_same_request_is_answered_alike_also_later(office: Any) -> None:
    request = office.request(office.invite(), KEY)
    first = office.authority.answer(request)
    office.later(100)
    assert office.again().answer(request) == first
    assert len(office.authority.issued()) == 1


def test_an_invite_is_good_for_one_key(office: Any) -> None:
    invite = office.invite()
    office.authority.answer(office.request(invite, KEY))
    second = office.again().answer(office.request(invite, OTHER))
    assert "used before" in second.refused
    assert not second.certificate


def test_a_key_is_of_one_client(office: Any) -> None:
    office.authority.answer(office.request(office.invite("a"), KEY))
    assert (
        "key is that of client 'a'"
        in office.authority.answer(office.request(office.invite("b"), KEY)).refused
    )


def test_an_invite_that_is_over_or_of_another_ca(office: Any, tmp_path: Path) -> None:
    request = office.request(office.invite(), KEY)
    make_authority(tmp_path / "other")
    with Authority(tmp_path / "other", lambda: office.now) as other:
        assert "no invite of this CA" in other.answer(request).refused
    office.later(8)
    assert "over" in office.authority.answer(request).refused


def test_renewal_takes_the_key_of_a_good_certificate(office: Any) -> None:
    office.authority.answer(office.request(office.invite(), KEY))
    office.later(90)
    renewed = office.authority.answer(make_request("ward 7", KEY, KEY, until(office)))
    assert not renewed.refused
    rotated = office.authority.answer(make_request("ward 7", OTHER, KEY, until(office) + 1))
    assert read_certificate(rotated.certificate.encode(), (office.authority.public,)).key == OTHER.public
    stale = office.authority.answer(make_request("ward 7", KEY, KEY, until(office) + 2))
    assert "new invite" in stale.refused, "the old key has no word any more"
    assert "new invite" in office.authority.answer(make_request("ward 8", SERVER, KEY, until(office))).refused
    office.later(181)
    assert (
        "new invite" in office.authority.answer(make_request("ward 7", OTHER, OTHER, until(office))).refused
    )


def test_who_is_revoked_is_not_renewed_but_may_be_invited_again(office: Any) -> None:
    request = office.request(office.invite(), KEY)
    office.authority.answer(request)
    assert office.authority.revoke("ward 7") == 1
    found = read_revocations((office.directory / "crl.pem").read_bytes(), office.authority.public)
    assert (found.number, len(found.serials)) == (1, 1)
    again = office.again()
    assert "new invite" in again.answer(make_request("ward 7", KEY, KEY, until(office))).refused
    assert "revoked" in again.answer(request).refused
    assert again.revoke("ward 7") == 0
    assert not again.answer(office.request(office.invite(), KEY)).refused
    with pytest.raises(ConfigError, match="did you mean 'ward 7'"):
        again.revoke("ward 8")


def test_a_ledger_survives_a_crash_and_not_damage(office: Any) -> None:
    request = office.request(office.invite(), KEY)
    first = office.authority.answer(request)
    path = office.directory / "ledger.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind":"issued","cli')
    assert office.again().answer(request) == first
    assert path.read_bytes() == whole
    path.write_bytes(b"{}\n" + whole)
    with pytest.raises(ConfigError, match=r"ledger.jsonl:1: damaged"):
        office.again()


def test_a_folder_that_is_no_ca_or_is_in_use(office: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none is no CA: give --ca, or make one with `fedkit ca init"):
        Authority(tmp_path / "none")
    with pytest.raises(ConfigError, match="in use"):
        Authority(office.directory)
    with pytest.raises(ConfigError, match="holds a key already"):
        make_authority(office.directory)
    with pytest.raises(ConfigError, match="client ''"):
        office.invite("")


def test_the_key_of_a_ca_below_an_aggregator_is_found(office: Any, tmp_path: Path) -> None:
    make_authority(tmp_path / "other")
    (tmp_path / "junk.pem").write_bytes(b"junk")
    demand_apart(tmp_path / "other", [office.authority.public])
    with pytest.raises(ConfigError, match="could invent clients"):
        demand_apart(tmp_path, [bytes(32), office.authority.public])
    demand_apart(tmp_path, [])  # without a CA no file is its key, not even what is no key


def test_a_new_ca_knows_what_the_old_one_did(office: Any, tmp_path: Path) -> None:
    invite = office.invite("b")
    office.authority.answer(office.request(office.invite(), KEY))
    made = office.authority.succeed(tmp_path / "new")
    trust = made.applied(Trust.of_ca(office.authority.public, SERVER.public), office.now.timestamp())
    assert trust.cas == (office.authority.public, made.ca)
    with Authority(tmp_path / "new", lambda: office.now) as new:
        renewed = new.answer(make_request("ward 7", KEY, KEY, until(office)))
        found = read_certificate(renewed.certificate.encode(), trust.cas)
        assert (found.client, found.ca) == ("ward 7", made.ca)
        assert trust.vouches("ward 7", KEY.public, renewed.voucher)
        assert not new.answer(office.request(invite, OTHER)).refused, "invites of the old one still hold"
        assert new.revoke("ward 7") == 2
        office.now += OVERLAP + timedelta(seconds=1)
        assert new.cas == (new.public,), "and then no more"


def test_one_ledger_grows_at_a_time(office: Any, tmp_path: Path) -> None:
    request = office.request(office.invite(), KEY)
    office.authority.succeed(tmp_path / "new")
    for late in (
        office.invite,
        lambda: office.authority.answer(request),
        lambda: office.authority.revoke("ward 7"),
        lambda: office.authority.succeed(tmp_path / "newer"),
    ):
        with pytest.raises(ConfigError, match="has announced another"):
            late()
    assert not (tmp_path / "newer").exists()
    (tmp_path / "new" / "previous-ca.json").write_text("{}")
    with pytest.raises(ConfigError, match="restore a copy"):
        Authority(tmp_path / "new")


def test_both_cas_announce_and_both_are_believed_for_a_while(office: Any) -> None:
    old, new = SigningKey(b"a" * 32), SigningKey(b"n" * 32)
    made = announce(old, new, 1000)
    assert read_succession(made.data()) == made
    for ca in (old, new):  # by whichever a device was invited
        trust = Trust.of_ca(ca.public, SERVER.public)
        assert made.applied(trust, 1000.0).cas == (old.public, new.public)
        assert made.applied(made.applied(trust, 1000.0), 1000.0).cas == (old.public, new.public)
        assert made.applied(made.applied(trust, 1000.0), 1001.0).cas == (new.public,)
    with pytest.raises(CryptoError, match="of another one"):
        made.applied(Trust.of_ca(OTHER.public, SERVER.public), 0.0)


@pytest.mark.parametrize(("signer", "which"), [("signature", "old"), ("consent", "new")])
def test_nobody_else_can_announce(signer: str, which: str) -> None:
    old, new = SigningKey(b"a" * 32), SigningKey(b"n" * 32)
    made, forged = announce(old, new, 1000), announce(OTHER, SERVER, 1000)
    with pytest.raises(CryptoError, match=f"not signed by the {which} one"):
        replace(made, **{signer: getattr(forged, signer)})
    data = made.data().replace(getattr(made, signer).hex().encode(), getattr(forged, signer).hex().encode())
    for broken in (b"", b"{}", b" " * 2000, data, made.data().replace(new.public.hex().encode(), b"0" * 64)):
        with pytest.raises(WireError):
            read_succession(broken)


def test_the_vector_of_an_announcement() -> None:
    vector = json.loads((Path(__file__).parents[1] / "vectors" / "enrol-1.json").read_text())
    told, old, server = vector["next"], bytes.fromhex(vector["invite"]["ca"]), vector["invite"]["server"]
    made = read_succession(told["body"].encode())
    assert made.data().decode() == told["body"]
    assert next_text(made.before, made.ca, made.until).decode() == told["signed"]
    assert made.before == old
    assert made == announce(SigningKey(b"\x01" * 32), SigningKey(b"\x05" * 32), made.until)
    assert made.applied(Trust.of_ca(old, bytes.fromhex(server)), 0.0).next_ca == made.ca
