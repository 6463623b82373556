"""Two statements of one client prove that it lied, to those who trust neither it nor the server."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fedkit.errors import PeerRefused, WireError
from fedkit.secagg import peer_rules
from fedkit.secagg.closing import Agreed, Masked, Opened
from fedkit.secagg.evidence import Evidence, Said
from fedkit.secagg.frames import parts_of, statement
from fedkit.secagg.identity import SigningKey, Trust
from fedkit.secagg.messages import Advert, Stage
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.primitives.signatures import SIGNATURE_BYTES
from fedkit.secagg.session import advert_text

if TYPE_CHECKING:
    from tests.secagg.conftest import Rehearsal

LIAR = "c002"
SESSION, KEY = b"s" * 32, SigningKey(b"k" * 32)
OTHER = SigningKey(b"o" * 32)
TRUST = Trust.of_roster({LIAR: KEY.public}, OTHER.public)


def said(
    purpose: str = "mask", session: bytes = SESSION, claims: bytes = b"one", key: SigningKey = KEY
) -> Said:
    text = statement(purpose, session, claims)
    return Said(text, key.sign(text))


def evidence(first: Said, second: Said, **change: bytes) -> Evidence:
    return replace(Evidence(LIAR, KEY.public, b"", first, second), **change)  # type: ignore[arg-type]


def test_two_statements_of_one_session_prove_it() -> None:
    for purpose in ("mask", "advert"):
        assert evidence(said(purpose), said(purpose, claims=b"two")).proves(TRUST)


@pytest.mark.parametrize(
    "second",
    [
        said(),
        said(session=b"t" * 32, claims=b"two"),
        said("advert", claims=b"two"),
        said(claims=b"two", key=OTHER),
        said(claims=b"two")._replace(signature=b""),
        Said(b"no statement", KEY.sign(b"no statement")),
    ],
    ids=["the same", "another session", "another stage", "another key", "not signed", "garbage"],
)
def test_nothing_else_does(second: Said) -> None:
    assert not evidence(said(), second).proves(TRUST)
    assert not evidence(second, said()).proves(TRUST)


def test_what_a_client_may_sign_twice_proves_nothing() -> None:
    assert not evidence(said("agree"), said("agree", claims=b"two")).proves(TRUST)


def test_the_key_has_to_be_that_of_the_client() -> None:
    two = said(key=OTHER), said(claims=b"two", key=OTHER)
    assert not evidence(*two, public=OTHER.public).proves(TRUST)
    assert not evidence(said(), said(claims=b"two")).proves(Trust.none())
    assert not evidence(said(), said(claims=b"two"), client="c003").proves(TRUST)  # type: ignore[arg-type]


def test_a_roster_believes_the_key_whoever_vouches_for_it_too() -> None:
    made = evidence(said(), said(claims=b"two"), voucher=b"v" * SIGNATURE_BYTES)
    assert made.proves(TRUST)
    assert not made.proves(Trust.of_ca(OTHER.public, KEY.public))


@pytest.mark.parametrize("client", ["", "x" * 256])
def test_evidence_about_nobody_is_none(client: str) -> None:
    told = evidence(said(), said(claims=b"two")).to_json() | {"client": client}
    with pytest.raises(WireError, match="a client id"):
        Evidence.from_json(json.dumps(told).encode())


def test_a_statement_and_its_parts() -> None:
    assert parts_of(statement("mask", b"", b"x" * 300)) == [b"fedkit/secagg/1", b"mask", b"", b"x" * 300]
    for cut in (1, 8, 20):
        with pytest.raises(WireError, match="cut off"):
            parts_of(statement("mask", b"abc")[:-cut])


# In a session


def contradict(session: Rehearsal, first: bytes, second: bytes) -> None:
    """The first is taken; the second is refused, however often it comes."""
    assert session.server.receive(LIAR, first)
    for _ in range(2):
        with pytest.raises(PeerRefused) as caught:
            session.server.receive(LIAR, second)
        assert caught.value.rule == "conflict"


def answer(session: Rehearsal) -> bytes:
    made = session.ask(LIAR, session.server.outbox()[LIAR])
    assert made is not None
    return made


def two_adverts(session: Rehearsal) -> None:
    first = answer(session)
    other = replace(Advert.from_bytes(first), commitment=b"c" * 32)
    text = advert_text(session.header.digest, other)
    contradict(session, first, replace(other, signature=session.keys[LIAR].sign(text)).to_bytes())


def two_vectors(session: Rehearsal, sign: bool = True) -> None:
    """sign: whether the first one is signed as it should be."""
    session.until(Stage.mask)
    twin = replace(session, sessions={}).until(Stage.mask)  # the same session again
    twin.vectors[LIAR] += np.uint32(1)
    first = Masked.from_bytes(answer(session), session.encoding.vector_bytes, session.encoding.tail)
    if not sign:
        first = replace(first, signature=bytes(SIGNATURE_BYTES))
    contradict(session, first.to_bytes(), answer(twin))


@pytest.mark.parametrize("identities", ["roster", "ca"])
@pytest.mark.parametrize("stage", [Stage.advertise, Stage.mask])
def test_who_contradicts_itself_is_caught_with_proof(
    rehearse: type[Rehearsal], identities: str, stage: Stage
) -> None:
    for session in rehearse(4, identities=identities).rounds():  # type: ignore[arg-type]
        (two_adverts if stage is Stage.advertise else two_vectors)(session)
        answers = session.server.answers
        assert answers.caught == {LIAR: f"two different {stage} messages"}
        (found,) = answers.evidence
        assert found.client == LIAR
        assert found.proves(session.trust)
        assert parts_of(found.first.text)[1] == (b"advert" if stage is Stage.advertise else b"mask")
        assert session.right(session.run())
        assert answers.caught  # also when all else is forgotten


def test_a_vector_that_is_not_signed_counts_and_proves_nothing(rehearse: type[Rehearsal]) -> None:
    """Its tag is the client's: the server knows who sent both, and cannot show it."""
    session = rehearse(4)
    two_vectors(session, sign=False)
    assert session.server.answers.caught == {LIAR: "two different mask messages"}
    assert session.server.answers.evidence == ()
    assert session.right(session.run())
    assert session.goes_on()


def test_shares_are_not_signed(rehearse: type[Rehearsal]) -> None:
    session = rehearse(4).until(Stage.unmask)
    first = answer(session)
    made, link = Opened.from_bytes(first, 4), session.server._intake._link(LIAR)
    less = Opened(made.owners & (np.arange(4) > 0), made.shares[1:], b"")
    contradict(session, first, replace(less, tag=link.tag(Stage.unmask, less.claims)).to_bytes())
    assert session.server.answers.caught == {LIAR: "two different unmask messages"}
    assert session.server.answers.evidence == ()


def test_without_identities_nobody_can_be_shown_anything(rehearse: type[Rehearsal]) -> None:

    session = rehearse(4, identities="none", policy=Policy(mode=Mode.HONEST_SERVER))
    two_adverts(session)
    assert session.server.answers.caught == {LIAR: "two different advertise messages"}
    assert session.server.answers.evidence == ()


@pytest.mark.parametrize("identities", ["none", "ca"])
def test_nobody_is_caught_by_what_another_key_says(rehearse: type[Rehearsal], identities: str) -> None:
    """Where nobody vouches for keys anybody could say it, and shut an honest client out."""
    session = rehearse(4, identities=identities, policy=Policy(mode=Mode.HONEST_SERVER))  # type: ignore[arg-type]
    first = answer(session)
    assert session.server.receive(LIAR, first)
    voucher = session.authority.certify(LIAR, OTHER.public).signature if identities == "ca" else b""
    made = Advert(LIAR, b"m" * 32, b"n" * 32, b"c" * 32, OTHER.public, voucher, b"")
    signature = OTHER.sign(advert_text(session.header.digest, made))
    with pytest.raises(PeerRefused, match="under another key"):
        session.server.receive(LIAR, replace(made, signature=signature).to_bytes())
    assert not session.server.answers.caught
    assert session.right(session.run())
    assert session.goes_on()


def test_who_agrees_again_says_the_same(rehearse: type[Rehearsal]) -> None:
    """One text has many signatures; whatever else is signed does not agree."""
    session = rehearse(4).until(Stage.agree)
    assert session.server.receive(LIAR, answer(session))
    text = b"other survivors"
    with pytest.raises(PeerRefused) as caught:
        session.server.receive(LIAR, Agreed(session.keys[LIAR].sign(text)).to_bytes())
    assert caught.value.rule == "signature"
    assert not session.server.answers.caught


def test_an_advert_signed_twice_is_one_advert(
    rehearse: type[Rehearsal], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = rehearse(4)
    first = answer(session)
    assert session.server.receive(LIAR, first)

    monkeypatch.setattr(peer_rules, "check_advert_signature", lambda *_: None)  # as if it held as well
    other = replace(Advert.from_bytes(first), signature=b"z" * SIGNATURE_BYTES)
    assert not session.server.receive(LIAR, other.to_bytes())
    assert not session.server.answers.caught
