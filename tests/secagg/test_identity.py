"""Who is believed to be whom."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fedkit.errors import ConfigError, PeerRefused, ProtocolRefused
from fedkit.secagg.identity import Authority, Identity, SigningKey, Trust, fingerprint
from fedkit.secagg.messages import Advert
from fedkit.secagg.rules import check_advert_signature

if TYPE_CHECKING:
    from tests.secagg.conftest import Rehearsal


def key(mark: int) -> SigningKey:
    return SigningKey(bytes([mark]) * 32)


SERVER = key(9).public
ROSTER = Trust.of_roster({"a": key(1).public, "b.c": key(2).public}, SERVER)


def test_a_roster_knows_its_clients_by_their_keys() -> None:
    assert ROSTER.vouches("a", key(1).public, b"")
    assert not ROSTER.vouches("a", key(2).public, b"")
    assert not ROSTER.vouches("x", key(1).public, b"")
    assert not ROSTER.vouches("a", key(1).public, b"s" * 64)
    assert ROSTER.knows("a")
    assert not ROSTER.knows("x")


def test_a_ca_vouches_for_one_client_and_one_key() -> None:
    ca, other = Authority(key(7)), Authority(key(8))
    trust = Trust.of_ca(key(7).public, SERVER)
    voucher = ca.certify("a", key(1).public).signature
    assert trust.vouches("a", key(1).public, voucher)
    assert not trust.vouches("b", key(1).public, voucher)
    assert not trust.vouches("a", key(2).public, voucher)
    assert not trust.vouches("a", key(1).public, b"")
    assert not trust.vouches("a", key(1).public, other.certify("a", key(1).public).signature)
    assert trust.knows("whoever")


def test_without_identities_any_key_will_do() -> None:
    trust = Trust.none()
    assert trust.vouches("a", key(1).public, b"")
    assert not trust.vouches("a", key(1).public, b"s" * 64)


def test_one_key_for_two_is_refused() -> None:
    with pytest.raises(ConfigError, match="a and b have the same key"):
        Trust.of_roster({"a": key(1).public, "b": key(1).public}, SERVER)
    with pytest.raises(ConfigError, match="same key"):
        Trust.of_roster({"a": SERVER}, SERVER)
    with pytest.raises(ConfigError, match="same key"):
        Trust.of_ca(SERVER, SERVER)


@pytest.mark.parametrize(
    "make",
    [lambda: Trust.of_roster({"a": b"short"}, SERVER), lambda: Trust.of_ca(b"", SERVER), lambda: Trust("ca")],
)
def test_a_key_has_32_bytes(make: object) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match="32 bytes"):
        make()


def test_an_identity_holds_its_own_certificate() -> None:
    ca = Authority(key(7))
    made = Identity("a", key(1), ca.certify("a", key(1).public))
    assert made.voucher == ca.certify("a", key(1).public).signature
    assert Identity("a", key(1)).voucher == b""
    assert key(1).secret.hex() not in repr(made)
    with pytest.raises(ConfigError, match="certificate of 'b'"):
        Identity("a", key(1), ca.certify("b", key(1).public))
    with pytest.raises(ConfigError, match="older key"):
        Identity("a", key(1), ca.certify("a", key(2).public))


def test_fingerprints_are_grouped() -> None:
    assert fingerprint(bytes(32)) == " ".join(["00000000"] * 8)


WEAK = b"\x01" + bytes(31)  # the neutral point


def test_a_key_that_anybody_can_sign_for_is_nobodys() -> None:
    with pytest.raises(ConfigError, match="'a': a key of low order"):
        Trust.of_roster({"a": WEAK}, SERVER)
    with pytest.raises(ConfigError, match="'the server': a key of low order"):
        Trust.of_roster({"a": key(1).public}, WEAK)
    with pytest.raises(ConfigError, match="'the CA': a key of low order"):
        Trust.of_ca(WEAK, SERVER)


def test_a_ca_that_certifies_such_a_key_helps_nobody(rehearse: type[Rehearsal]) -> None:
    """The key is certified, and a signature that holds for it is refused on both sides."""
    session = rehearse(4, identities="ca")
    advert = Advert.from_bytes(
        session.clients["c001"].advertise(session.server.outbox()["c001"], session.expected())
    )
    voucher = session.authority.certify("c001", WEAK).signature
    forged = replace(advert, public=WEAK, voucher=voucher, signature=WEAK + bytes(32))
    assert session.trust.vouches("c001", WEAK, voucher)
    with pytest.raises(PeerRefused) as caught:
        session.server.receive("c001", forged.to_bytes())
    assert caught.value.rule == "signature"
    with pytest.raises(ProtocolRefused) as refused:
        check_advert_signature(forged, session.header)
    assert refused.value.rule == "signature"
