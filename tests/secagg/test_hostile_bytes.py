"""Any bytes, to both machines at every stage: refused by name or harmless, and nothing else comes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedkit.errors import ConfigError, PeerRefused, ProtocolRefused, WireError
from fedkit.messages import ClientId
from fedkit.secagg.closing import Agreed, Masked, Opened, Quorum, Survivors
from fedkit.secagg.header import Encoding, Header
from fedkit.secagg.identity import Floors
from fedkit.secagg.messages import Advert, Boxes, Inbox, Opening, Roster, Stage
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.primitives.signatures import SIGNATURE_BYTES
from fedkit.secagg.server import SecAggServer
from fedkit.secagg.session import header_text

if TYPE_CHECKING:
    from tests.secagg.conftest import Rehearsal

Read: TypeAlias = Callable[[bytes], object]

FEW = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
SMALL = Encoding(5, 32, 2, "")
ME = "c001"


@st.composite
def mutants(draw: st.DrawFn, body: bytes) -> bytes:
    """Bytes that are nearly this message, or not at all."""
    at = draw(st.integers(0, len(body)))
    some = draw(st.binary(min_size=1, max_size=12))
    length = draw(st.sampled_from([0, len(body) - 16, len(body), 2**31, 2**63, 2**64 - 1]))
    made = [
        body[:at] + bytes([body[at] ^ 1 << draw(st.integers(0, 7))]) + body[at + 1 :]
        if at < len(body)
        else b"",
        body[:at],
        body[:at] + some + body[at:],
        body[:at] + some + body[at + len(some) :],
        body[:8] + length.to_bytes(8, "little") + body[16:],
        body[:3] + some[:1] + body[4:],
        body + some,
        some,
    ]
    return draw(st.sampled_from(made))


@pytest.mark.parametrize("stage", Stage)
@FEW
@given(data=st.data())
def test_a_client_answers_or_refuses(rehearse: type[Rehearsal], data: st.DataObject, stage: Stage) -> None:
    """What cannot be read changes nothing; after any other refusal its secrets are gone. The next round is
    none the worse. A header is signed again, as a lying server would.
    """
    session = rehearse(3, encoding=SMALL).until(stage)
    body = session.server.outbox()[ME]
    if stage is Stage.advertise and data.draw(st.booleans()):
        changed = data.draw(mutants(Opening.from_bytes(body).header))
        sent = Opening(changed, session.signer.sign(header_text(changed))).to_bytes()
    else:
        sent = data.draw(mutants(body))
    client, unread = session.clients[ME], False
    try:
        session.answer(stage, ME, sent)
    except ProtocolRefused as error:
        unread = error.rule == "malformed"
        if not unread:
            assert client.stage is None
            assert client._vault is None
            assert not client.done
    if unread:
        session.answer(stage, ME, body)
    with pytest.raises(ProtocolRefused, match="stage"):
        session.answer(stage, ME, body)
    assert session.goes_on()


portions = st.floats(0, 1, exclude_max=True)
policies = st.builds(
    Policy, portions, portions, st.integers(1, 128), st.sampled_from(Mode), st.integers(3, 9)
)
explicit = (
    st.none() | st.tuples(st.integers(1, 70), st.integers(1, 70)) | st.tuples(*[st.integers(1, 65535)] * 2)
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(policy=policies, by_hand=explicit, n=st.integers(3, 200))
def test_any_policy_in_a_header_is_computed_or_refused(
    rehearse: type[Rehearsal], policy: Policy, by_hand: tuple[int, int] | None, n: int
) -> None:
    """No k and t make the client stumble; it comes as far as the adverts, which are not there."""
    try:
        session = rehearse(3, identities="none", policy=Policy(mode=Mode.HONEST_SERVER))
        header = replace(session.header, policy=policy, explicit=by_hand, clients=200)
    except ConfigError:
        return
    session.floors = Floors(replace(policy, mode=Mode.HONEST_SERVER), by_hand)
    client = session.make_client(ME)
    own = Advert.from_bytes(client.advertise(Opening(header.to_bytes(), b"").to_bytes(), session.expected()))
    names = tuple(f"c{i:03}" for i in range(n))
    digests = tuple(own.digest if name == ME else sha256(name.encode()).digest() for name in names)
    with pytest.raises(ProtocolRefused) as caught:
        client.share(Roster(names, digests, ()).to_bytes())
    assert caught.value.rule in ("n_min", "parameters", "threshold", "graph")


def state(server: SecAggServer) -> tuple[object, ...]:
    """All that messages change."""
    board = server._board
    total = server.__dict__.get("_total")
    taken = server.__dict__.get("_recovery")
    return (
        *(server.stage, server.waiting(), server.lost(), server.u1, server.u2, server.u3),
        {stage: dict(said) for stage, said in server.answers._said.items()},
        *(dict(board.adverts), dict(board.frames), dict(board.signatures), dict(server._intake._used)),
        board.__dict__["boxes"].tobytes() if "boxes" in board.__dict__ else b"",
        [lanes.tobytes() for lanes in total] if total else [],
        (taken._given.tobytes(), taken._shares.tobytes()) if taken else (),
        server.offences,
    )


def said(body: bytes) -> bytes:
    """A message as the server takes it: by the signature of a vector it goes only where two contradict."""
    try:
        made = Masked.from_bytes(body, SMALL.vector_bytes, SMALL.tail)
    except WireError:
        return body
    return replace(made, signature=bytes(SIGNATURE_BYTES)).to_bytes()


def storm(session: Rehearsal, data: st.DataObject) -> Callable[[Stage, ClientId, bytes], bytes]:
    """Before each true answer there is junk: answers of all times, changed or in another's name."""
    real: dict[ClientId, set[bytes]] = {name: set() for name in session.names}

    def junk(_: Stage, name: ClientId, body: bytes) -> bytes:
        real[name].add(said(body))
        kept = data.draw(st.sampled_from(sorted(session.seen.items())))[1]
        for sent in (data.draw(mutants(body)), data.draw(mutants(kept)), kept):
            who = data.draw(st.sampled_from([*session.names, "stranger"]))
            if said(sent) not in real.get(who, ()):
                before = state(session.server)
                with pytest.raises(PeerRefused):
                    session.server.receive(who, sent)
                assert state(session.server) == before
        return body

    return junk


@settings(FEW, max_examples=12)
@given(data=st.data())
def test_a_server_takes_nothing_but_what_clients_sent(rehearse: type[Rehearsal], data: st.DataObject) -> None:
    """Whatever else anybody sends in any name, the sum is that of all, in two rounds."""
    for session in rehearse(3, encoding=SMALL).rounds():
        session.up = storm(session, data)
        found = session.run()
        assert session.right(found)
        assert found.members == tuple(session.names)
        assert not session.server.offences


READ: dict[str, Read] = {
    "opening": Opening.from_bytes,
    "header": Header.from_bytes,
    "advert": Advert.from_bytes,
    "roster": lambda data: Roster.from_bytes(data, 5),
    "boxes": lambda data: Boxes.from_bytes(data, 2),
    "inbox": lambda data: Inbox.from_bytes(data, 3, 2),
    "masked": lambda data: Masked.from_bytes(data, 20, 2),
    "survivors": lambda data: Survivors.from_bytes(data, 3),
    "agreed": Agreed.from_bytes,
    "quorum": lambda data: Quorum.from_bytes(data, 2),
    "opened": lambda data: Opened.from_bytes(data, 3),
}


@pytest.mark.parametrize("kind", READ)
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_bytes_are_a_message_or_a_wire_error(
    rehearse: type[Rehearsal], data: st.DataObject, kind: str
) -> None:
    """What is read is written as it came, so that there is one spelling of each message."""
    if kind not in BODIES:
        BODIES[kind] = example(rehearse, kind)
    sent = data.draw(mutants(BODIES[kind]))
    try:
        made = READ[kind](sent)
    except WireError:
        return
    assert made.to_bytes() == sent  # type: ignore[attr-defined]


BODIES: dict[str, bytes] = {}


def example(rehearse: type[Rehearsal], kind: str) -> bytes:
    """A real message of this kind."""
    if kind == "header":
        return rehearse(3, encoding=SMALL).header.to_bytes()
    sent = {"advert": Stage.advertise, "boxes": Stage.share, "masked": Stage.mask}
    sent |= {"agreed": Stage.agree, "opened": Stage.unmask}
    told = {"opening": Stage.advertise, "roster": Stage.share, "inbox": Stage.mask}
    told |= {"survivors": Stage.agree, "quorum": Stage.unmask}
    session = rehearse(3, encoding=SMALL).until(told[kind] if kind in told else sent[kind])
    asked = session.server.outbox()[ME]
    return asked if kind in told else session.answer(sent[kind], ME, asked)


def test_every_kind_has_a_real_example(rehearse: type[Rehearsal]) -> None:
    for kind, read in READ.items():
        body = example(rehearse, kind)
        assert read(body).to_bytes() == body  # type: ignore[attr-defined]
