"""What a device asks: both keys sign it, and the CA stands behind an invite."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.ca.certificates import read_certificate
from fedkit.ca.requests import LIMIT, Grant, Request, make_request, read_grant, read_request
from fedkit.errors import CryptoError, WireError
from fedkit.secagg.identity import SigningKey, Trust

VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "enrol-1.json").read_text())
KEY, OTHER = SigningKey(b"k" * 32), SigningKey(b"o" * 32)


def at(office: Any) -> float:
    return float(office.now.timestamp())


def test_an_honest_request_holds_and_comes_back(office: Any) -> None:
    made = office.request(office.invite(), KEY)
    made.check((office.authority.public,), at(office))
    assert read_request(made.data()) == made
    assert made.id == hashlib.sha256(made.signed).hexdigest()
    assert make_request("ward 7", KEY, OTHER, 5).renews


def test_what_an_aggregator_could_change_shows(office: Any) -> None:
    """It sees the request, not the one-time secret: a key of its own, or another name, does not hold."""
    made = office.request(office.invite(), KEY)
    cas, now = (office.authority.public,), at(office)
    swapped = replace(made, key=OTHER.public)
    forged = {
        "another key": swapped,
        "another key, owned": replace(swapped, possession=OTHER.sign(swapped.signed)),
        "another client": replace(made, client="ward 8"),
        "a longer time": replace(made, until=made.until + 1),
        "another invite": replace(made, by=OTHER.public),
        "no sanction": replace(made, sanction=b""),
        "another sanction": replace(made, sanction=bytes(64)),
        "no proof": replace(made, proof=bytes(64)),
    }
    for request in forged.values():
        with pytest.raises(CryptoError):
            request.check(cas, now)


def test_invites_of_nobody_or_of_another_ca_are_worth_nothing(office: Any) -> None:
    made = office.request(office.invite(), KEY)
    with pytest.raises(CryptoError, match="no invite of this CA"):
        made.check((OTHER.public,), at(office))
    invented = make_request("ward 7", KEY, OTHER, made.until, made.sanction)
    with pytest.raises(CryptoError, match="no invite of this CA"):
        invented.check((office.authority.public,), at(office))


def test_an_invite_ends(office: Any) -> None:
    made = office.request(office.invite(), KEY)
    made.check((office.authority.public,), made.until)
    with pytest.raises(CryptoError, match="over"):
        made.check((office.authority.public,), made.until + 1)


def test_a_weak_key_is_not_certified(office: Any) -> None:
    invite = office.invite()
    weak = Request("ward 7", bytes(32), invite.once.public, invite.expires, invite.sanction, b"", b"")
    with pytest.raises(CryptoError, match="low order"):
        weak.check((office.authority.public,), at(office))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (read_request, read_grant):
        with pytest.raises(WireError):
            read(data)


def test_bodies_are_bounded_and_exact(office: Any) -> None:
    data = office.request(office.invite(), KEY).data()
    with pytest.raises(WireError, match="the limit is"):
        read_request(data + b" " * LIMIT)
    content = json.loads(data)
    for bad in ({**content, "more": 1}, {**content, "key": content["key"].upper()}, {**content, "until": -1}):
        with pytest.raises(WireError):
            read_request(json.dumps(bad).encode())
    assert read_grant(Grant("00" * 32, refused="no").data()).refused == "no"


def test_the_vectors_hold_to_the_byte() -> None:
    ca, invite = bytes.fromhex(VECTOR["invite"]["ca"]), VECTOR["invite"]
    device, once = SigningKey(bytes.fromhex(VECTOR["device"])), SigningKey(bytes.fromhex(invite["seed"]))
    join = make_request(invite["client"], device, once, invite["expires"], bytes.fromhex(invite["sanction"]))
    renew = make_request(invite["client"], device, device, VECTOR["renew"]["until"])
    for made, told in ((join, VECTOR["join"]), (renew, VECTOR["renew"])):
        assert made.signed.decode() == told["signed"]
        assert made.id == told["id"]
        assert made.data().decode() == told["body"]
        made.check((ca,), 0)


def test_the_vector_of_an_answer_is_the_cas_word_for_the_device() -> None:
    told, ca = VECTOR["grant"], bytes.fromhex(VECTOR["invite"]["ca"])
    device = SigningKey(bytes.fromhex(VECTOR["device"]))
    grant = read_grant(told["body"].encode())
    assert (grant.data().decode(), grant.id) == (told["body"], VECTOR["join"]["id"])
    made = read_certificate(grant.certificate.encode(), (ca,))
    assert (made.client, made.key, made.ca) == (VECTOR["invite"]["client"], device.public, ca)
    assert (made.begins, made.ends, made.serial) == (told["begins"], told["ends"], told["serial"])
    trust = Trust.of_ca(ca, bytes.fromhex(VECTOR["invite"]["server"]))
    assert trust.vouches(made.client, made.key, grant.voucher)
    assert not trust.vouches("ward 8", made.key, grant.voucher)
