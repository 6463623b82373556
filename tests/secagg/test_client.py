"""Every rule of a client: who breaks it is refused by name, and the client's secrets are gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fedkit.errors import ProtocolRefused
from fedkit.secagg import rules
from fedkit.secagg.client import NEXT, NEXT_UNAGREED, Expected, MemorySessions, Step
from fedkit.secagg.closing import Quorum, Survivors
from fedkit.secagg.header import Encoding, Header
from fedkit.secagg.identity import Floors, SigningKey, Trust
from fedkit.secagg.messages import Advert, Inbox, Opening, Roster, Stage
from fedkit.secagg.parameters import Mode, Policy, choose
from fedkit.secagg.primitives.keys import LOW_ORDER
from fedkit.secagg.session import advert_text, agree_text, header_text

if TYPE_CHECKING:
    from tests.secagg.conftest import Rehearsal

HONEST = Policy(mode=Mode.HONEST_SERVER)
ME = "c000"


def body_of(session: Rehearsal, name: str = ME) -> bytes:
    """The present stage's message to a client."""
    return session.server.outbox()[name]


def unread(session: Rehearsal, body: bytes) -> ProtocolRefused:
    """How the first client takes what it cannot read; nothing has changed."""
    client = session.clients[ME]
    before = client.stage
    with pytest.raises(ProtocolRefused) as caught:
        session.answer(session.server.stage, ME, body)
    assert client.stage is before
    return caught.value


def refused(session: Rehearsal, body: bytes) -> ProtocolRefused:
    """How the first client takes a body; it is dead then, and has nothing left."""
    client = session.clients[ME]
    with pytest.raises(ProtocolRefused) as caught:
        session.answer(session.server.stage, ME, body)
    assert client.stage is None
    assert not client.done
    assert client.__dict__["_vault"] is None
    assert client.__dict__["_link"] is None
    with pytest.raises(ProtocolRefused, match="it is over"):
        client.unmask(b"")
    return caught.value


# The header


def opening(session: Rehearsal, signer: SigningKey | None = None, **change: Any) -> bytes:
    """The server's own header, changed and signed by it: a lying server holds that key."""
    data = replace(session.header, **change).to_bytes()
    return Opening(data, (signer or session.signer).sign(header_text(data))).to_bytes()


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("job", {"job": "other"}),
        ("round", {"round": 2}),
        ("kind", {"kind": "evaluate"}),
        ("attempt", {"attempt": 1}),
        ("model", {"model": b"m" * 32}),
        ("encoding", {"encoding": Encoding(40, 32, 3, "other scale")}),
        ("encoding", {"encoding": Encoding(41, 32, 3, "test")}),
        ("identities", {"identities": "none"}),
        ("mode", {"policy": HONEST}),
        ("corrupt", {"policy": Policy(corrupt=0.04)}),
        ("dropout", {"policy": Policy(dropout=0.05)}),
        ("sigma", {"policy": Policy(sigma=30)}),
    ],
)
def test_a_header_that_is_not_what_the_client_wants(
    rehearse: type[Rehearsal], rule: str, change: dict[str, Any]
) -> None:
    session = rehearse(5)
    assert refused(session, opening(session, **change)).rule == rule


def test_a_floor_says_by_how_much(rehearse: type[Rehearsal]) -> None:
    for said in (Policy(), Policy(smallest=3)):
        session = rehearse(5, policy=said, floors=Floors(Policy(smallest=5)))
        error = refused(session, body_of(session))
        assert error.rule == "smallest"
        assert "smallest 3, 2 below the 5 of this client" in str(error)


def test_fewest_that_are_not_chosen_are_three(rehearse: type[Rehearsal]) -> None:
    session = rehearse(5, floors=Floors(Policy(smallest=3)))
    assert session.right(session.run())
    assert not session.refused
    assert session.goes_on()


def test_a_higher_policy_than_the_floor_will_do(rehearse: type[Rehearsal]) -> None:
    session = rehearse(10, policy=Policy(corrupt=0.1, sigma=90, smallest=4), floors=Floors())
    assert session.right(session.run())
    assert not session.refused
    assert session.goes_on()


def test_a_client_that_trusts_the_server_takes_both_modes(rehearse: type[Rehearsal]) -> None:
    session = rehearse(5, floors=Floors(HONEST))
    assert session.right(session.run())
    assert not session.refused
    assert session.goes_on()


def test_without_identities_only_an_honest_server_will_do(rehearse: type[Rehearsal]) -> None:
    session = rehearse(5, policy=HONEST, identities="none", floors=Floors())
    assert refused(session, body_of(session)).rule == "identities"


def test_the_header_is_signed_by_the_aggregator(rehearse: type[Rehearsal]) -> None:
    for signer in (SigningKey(b"x" * 32), None):
        session = rehearse(5)
        body = opening(session, signer) if signer else Opening(session.header.to_bytes(), b"").to_bytes()
        assert refused(session, body).rule == "server"


def test_a_session_is_joined_once(rehearse: type[Rehearsal]) -> None:
    session = rehearse(5)
    session.clients[ME].advertise(body_of(session), session.expected())
    session.clients[ME] = session.make_client(ME)  # with the same memory
    assert refused(session, body_of(session)).rule == "sid"


@pytest.mark.parametrize("policy", [Policy(), HONEST], ids=["lying", "honest"])
def test_who_helped_to_open_a_sum_joins_no_other_of_that_round(
    rehearse: type[Rehearsal], policy: Policy
) -> None:
    stage = Stage.agree if policy.mode is Mode.LYING_SERVER else Stage.unmask
    first = rehearse(5, policy=policy).until(stage)
    again = rehearse(5, policy=policy, attempt=1, sessions=first.sessions)
    again.clients[ME].advertise(body_of(again), again.expected())  # nothing is signed so far
    first.answer(stage, ME, body_of(first))
    later = rehearse(5, policy=policy, attempt=2, sessions=first.sessions)
    assert refused(later, body_of(later)).rule == "second sum"
    other = rehearse(5, policy=policy, round=2, sessions=first.sessions)
    other.clients[ME].advertise(body_of(other), other.expected())


def test_of_two_sessions_at_once_one_is_opened(rehearse: type[Rehearsal]) -> None:
    first = rehearse(5)
    second = rehearse(5, attempt=1, sessions=first.sessions)
    first.until(Stage.agree)
    second.until(Stage.agree)
    first.step()
    assert refused(second, body_of(second)).rule == "second sum"


# The roster


def roster(session: Rehearsal, **change: Any) -> bytes:
    found = Roster.from_bytes(body_of(session), session.n)
    return replace(found, **change).to_bytes()


def found_roster(session: Rehearsal) -> Roster:
    return Roster.from_bytes(body_of(session), session.n)


def forged(session: Rehearsal, name: str, key: SigningKey, **change: Any) -> Advert:
    """An advert as the server can make it: any keys, signed by a key it holds."""
    true = Advert.from_bytes(session.seen[Stage.advertise, name])
    made = replace(true, public=key.public, **change)
    return replace(made, signature=key.sign(advert_text(session.header.digest, made)))


def with_advert(session: Rehearsal, advert: Advert) -> bytes:
    """A roster in which one advert is replaced, in its own place and among the hashes."""
    found = found_roster(session)
    at = found.clients.index(advert.client)
    digests = (*found.digests[:at], advert.digest, *found.digests[at + 1 :])
    adverts = tuple(advert if one.client == advert.client else one for one in found.adverts)
    return replace(found, digests=digests, adverts=adverts).to_bytes()


def sharing(rehearse: type[Rehearsal], n: int = 5, **options: Any) -> Rehearsal:
    return rehearse(n, **options).until(Stage.share)


def test_enough_clients_are_in_the_roster(rehearse: type[Rehearsal]) -> None:
    session = sharing(rehearse)
    found = found_roster(session)
    body = Roster(found.clients[:2], found.digests[:2], found.adverts[:1]).to_bytes()
    assert refused(session, body).rule == "n_min"


@pytest.mark.parametrize("order", [(0, 1, 3, 2, 4), (0, 1, 2, 2, 4)])
def test_every_client_stands_in_the_roster_once(rehearse: type[Rehearsal], order: tuple[int, ...]) -> None:
    session = sharing(rehearse)
    found = found_roster(session)
    clients, digests = (tuple(items[i] for i in order) for items in (found.clients, found.digests))
    assert refused(session, roster(session, clients=clients, digests=digests)).rule == "order"


def test_the_own_advert_is_there_unchanged(rehearse: type[Rehearsal]) -> None:
    session = sharing(rehearse)
    found = found_roster(session)
    assert refused(session, roster(session, digests=(b"x" * 32, *found.digests[1:]))).rule == "own advert"
    session = sharing(rehearse)
    clients = ("c0000", *found.clients[1:])
    assert refused(session, roster(session, clients=clients)).rule == "own advert"


def test_nobody_is_made_up(rehearse: type[Rehearsal]) -> None:
    session = sharing(rehearse)
    clients = (*found_roster(session).clients[:-1], "sybil")
    assert refused(session, roster(session, clients=clients)).rule == "unknown client"


def test_parameters_are_computed_by_the_client(rehearse: type[Rehearsal]) -> None:
    """k and t given by hand, which do not keep the policy for those who are there."""
    session = rehearse(12, explicit=(10, 7))
    session.header = replace(session.header, explicit=(2, 2))
    session.clients[ME].advertise(opening(session), session.expected())
    own = session.clients[ME].__dict__["_advert"]
    names = tuple(session.names)
    body = Roster(names, (own.digest, *(b"x" * 32 for _ in names[1:])), ()).to_bytes()
    with pytest.raises(ProtocolRefused, match="secrecy fails") as caught:
        session.clients[ME].share(body)
    assert caught.value.rule == "parameters"


def test_the_neighbours_are_those_of_the_graph(rehearse: type[Rehearsal]) -> None:
    session = sharing(rehearse)
    adverts = found_roster(session).adverts
    assert refused(session, roster(session, adverts=adverts[:-1])).rule == "graph"
    session = sharing(rehearse)
    assert refused(session, roster(session, adverts=adverts[::-1])).rule == "graph"


def test_an_advert_is_the_one_in_the_roster(rehearse: type[Rehearsal]) -> None:
    session = sharing(rehearse)
    adverts = found_roster(session).adverts
    other = forged(session, "c002", session.keys["c002"], commitment=b"x" * 32)
    assert refused(session, roster(session, adverts=(adverts[0], other, *adverts[2:]))).rule == "root"


def test_keys_are_those_of_the_clients(rehearse: type[Rehearsal]) -> None:
    session = sharing(rehearse)
    swapped = forged(session, "c002", SigningKey(b"x" * 32), mask=b"k" * 32)
    assert refused(session, with_advert(session, swapped)).rule == "certificate"
    session = sharing(rehearse, identities="ca")
    swapped = forged(session, "c002", SigningKey(b"x" * 32))
    assert refused(session, with_advert(session, swapped)).rule == "certificate"


def test_an_advert_is_signed_for_this_session(rehearse: type[Rehearsal]) -> None:
    session = sharing(rehearse)
    advert = replace(forged(session, "c002", session.keys["c002"]), mask=b"k" * 32)
    assert refused(session, with_advert(session, advert)).rule == "signature"
    earlier = sharing(rehearse, round=2)
    session = sharing(rehearse)
    replayed = Advert.from_bytes(earlier.seen[Stage.advertise, "c002"])
    assert refused(session, with_advert(session, replayed)).rule == "signature"


def test_no_key_stands_for_two(rehearse: type[Rehearsal]) -> None:
    def other(session: Rehearsal) -> Advert:
        return Advert.from_bytes(session.seen[Stage.advertise, "c003"])

    makers: list[Callable[[Rehearsal], bytes]] = [
        lambda s: other(s).mask,
        lambda s: other(s).box,
        lambda s: s.header.server,
        lambda s: Advert.from_bytes(s.seen[Stage.advertise, ME]).mask,
    ]
    for make in makers:
        session = sharing(rehearse)
        advert = forged(session, "c002", session.keys["c002"], mask=make(session))
        assert refused(session, with_advert(session, advert)).rule == "duplicate key"


def test_one_identity_is_one_client(rehearse: type[Rehearsal]) -> None:
    """Without a roster a key can be used twice; not within one session."""
    session = sharing(rehearse, policy=HONEST, identities="none")
    advert = forged(session, "c002", session.keys["c003"])
    assert refused(session, with_advert(session, advert)).rule == "duplicate key"


@pytest.mark.parametrize("field", ["mask", "box"])
def test_no_key_is_of_low_order(rehearse: type[Rehearsal], field: str) -> None:
    for point in sorted(LOW_ORDER)[:2]:
        session = sharing(rehearse)
        advert = forged(session, "c002", session.keys["c002"], **{field: point})
        assert refused(session, with_advert(session, advert)).rule == "low order"


# Who shared


def flags(*bits: int) -> Any:
    return np.array(bits, np.bool_)


def inbox(session: Rehearsal, sharers: Any, boxes: int) -> bytes:
    found = Inbox.from_bytes(body_of(session), session.n, session.n - 1)
    return Inbox(sharers, found.boxes[:boxes]).to_bytes()


@pytest.mark.parametrize(
    ("rule", "sharers", "boxes"),
    [
        ("self", (0, 1, 1, 1, 1), 4),
        ("n_min", (1, 1, 0, 0, 0), 1),
        ("holders", (1, 1, 1, 0, 0), 2),
        ("inbox", (1, 1, 1, 1, 1), 3),
        ("inbox", (1, 1, 1, 1, 0), 4),
    ],
)
def test_who_shared_is_enough_and_has_the_client_in_it(
    rehearse: type[Rehearsal], rule: str, sharers: tuple[int, ...], boxes: int
) -> None:
    session = rehearse(5).until(Stage.mask)
    assert refused(session, inbox(session, flags(*sharers), boxes)).rule == rule


# Who survived


@pytest.mark.parametrize(
    ("rule", "members"),
    [
        ("survivors", (1, 1, 1, 1, 1, 1)),
        ("self", (0, 1, 1, 1, 1, 0)),
        ("n_min", (1, 1, 0, 0, 0, 0)),
        ("holders", (1, 1, 1, 0, 0, 0)),
    ],
)
@pytest.mark.parametrize("policy", [Policy(), HONEST], ids=["lying", "honest"])
def test_who_survived_is_enough_and_has_the_client_in_it(
    rehearse: type[Rehearsal], policy: Policy, rule: str, members: tuple[int, ...]
) -> None:
    """Of six the last one did not share. t = 4 (honest server: 3, so n_min is reached first)."""
    if policy is HONEST:
        policy = replace(policy, smallest=4 if rule == "n_min" else 3, corrupt=0.5)
    stage = Stage.agree if policy.mode is Mode.LYING_SERVER else Stage.unmask
    session = rehearse(6, policy=policy, lose={"c005": Stage.share}).until(stage)
    assert refused(session, Survivors(flags(*members)).to_bytes()).rule == rule


def test_survivors_that_could_fall_apart_are_refused(rehearse: type[Rehearsal]) -> None:
    """On a sparse graph, with few left; the client's own holders are all there."""
    session = rehearse(40, explicit=(8, 6), policy=Policy(corrupt=0.0, sigma=10, dropout=0.0)).until(
        Stage.agree
    )
    known = session.clients[ME].__dict__["_session"]
    members = np.zeros(40, np.bool_)
    members[known.circle(0)] = True
    assert refused(session, Survivors(members).to_bytes()).rule == "connected"


# What was agreed


def signed(session: Rehearsal, count: int) -> Quorum:
    found = Quorum.from_bytes(body_of(session), session.n - 1)
    keep = np.arange(len(found.signers)) < count
    return Quorum(found.signers & keep, found.signatures[:count])


def test_t_holders_agree(rehearse: type[Rehearsal]) -> None:
    """Of five, t = 4 with the client itself: three others."""
    session = rehearse(5).until(Stage.unmask)
    assert refused(session, signed(session, 2).to_bytes()).rule == "quorum"
    session = rehearse(5).until(Stage.unmask)
    session.answer(Stage.unmask, ME, signed(session, 3).to_bytes())


def test_signatures_of_other_survivors_do_not_count(rehearse: type[Rehearsal]) -> None:
    session = rehearse(5).until(Stage.unmask)
    quorum = signed(session, 4)
    spoilt = (quorum.signatures[0][:-1] + b"\1", quorum.signatures[0], *quorum.signatures[2:])
    assert refused(session, replace(quorum, signatures=spoilt).to_bytes()).rule == "quorum"
    other = rehearse(5, lose={"c004": Stage.mask}).until(Stage.unmask)  # the same secrets, one survivor less
    session = rehearse(5).until(Stage.unmask)
    assert refused(session, body_of(other)).rule == "quorum"


def test_nobody_signs_who_is_lost(rehearse: type[Rehearsal]) -> None:
    """A lost holder's signature, of whatever, is none."""
    session = rehearse(5, lose={"c004": Stage.mask}).until(Stage.agree)
    for name in session.names[:4]:
        session.deliver(name, session.answer(Stage.agree, name, body_of(session, name)))
    session.server.advance()
    known, client = session.keys["c004"], session.clients[ME]
    inside = client.__dict__
    text = agree_text(inside["_session"].context, inside["_sharers"], inside["_survivors"])
    quorum = signed(session, 2)
    members = quorum.signers.copy()
    members[3] = True
    body = Quorum(members, (*quorum.signatures, known.sign(text))).to_bytes()
    assert refused(session, body).rule == "quorum"


# Turns


@pytest.mark.parametrize(
    ("policy", "stage"),
    [(Policy(), stage) for stage in Stage] + [(HONEST, stage) for stage in Stage if stage is not Stage.agree],
)
def test_every_stage_is_answered_once(rehearse: type[Rehearsal], policy: Policy, stage: Stage) -> None:
    session = rehearse(5, policy=policy).until(stage)
    body = body_of(session)
    session.answer(stage, ME, body)
    if stage is Stage.unmask:
        assert session.clients[ME].done
    with pytest.raises(ProtocolRefused) as caught:
        session.answer(stage, ME, body)
    assert caught.value.rule == "stage"


@pytest.mark.parametrize("stage", [Stage.share, Stage.mask, Stage.agree, Stage.unmask])
def test_no_stage_is_left_out(rehearse: type[Rehearsal], stage: Stage) -> None:
    session = rehearse(5)
    with pytest.raises(ProtocolRefused) as caught:
        session.answer(stage, ME, body_of(session))
    assert caught.value.rule == "stage"


def test_the_stages_of_a_client(rehearse: type[Rehearsal]) -> None:
    for policy, order in ((Policy(), NEXT), (HONEST, NEXT_UNAGREED)):
        session = rehearse(3, policy=policy)
        seen = [session.clients[ME].stage]
        while not session.server.done:
            session.step()
            seen.append(session.clients[ME].stage)
        step: Step | None = Step.advertise
        steps = []
        while step:
            steps.append(step.value)
            step = order[step]
        assert [stage.value if stage else None for stage in seen] == [
            *(s for s in steps if s != "accept"),
            None,
        ]
        assert session.goes_on()


@pytest.mark.parametrize("stage", list(Stage))
def test_bytes_that_are_no_message(rehearse: type[Rehearsal], stage: Stage) -> None:
    for body in (b"", b"x" * 100):
        session = rehearse(5).until(stage)
        assert unread(session, body).rule == "malformed"
        session.run()
        assert ME in session.server.result().members
        assert session.goes_on()


def test_a_header_of_another_version(rehearse: type[Rehearsal]) -> None:
    session = rehearse(5)
    data = bytearray(session.header.to_bytes())
    data[2] = 2
    body = Opening(bytes(data), session.signer.sign(header_text(bytes(data)))).to_bytes()
    error = unread(session, body)
    assert error.rule == "malformed"
    assert "version 2" in str(error)


# Vectors


@pytest.mark.parametrize(
    ("vector", "tail"),
    [
        (np.zeros(39, np.uint32), np.zeros(3, np.uint64)),
        (np.zeros(40, np.uint64), np.zeros(3, np.uint64)),
        (np.zeros(40, np.uint32), np.zeros(2, np.uint64)),
        (np.zeros(40, np.uint32), np.zeros(3, np.uint32)),
        (np.zeros((40, 1), np.uint32), np.zeros(3, np.uint64)),
    ],
)
def test_a_vector_that_is_not_what_the_session_sums(
    rehearse: type[Rehearsal], vector: Any, tail: Any
) -> None:
    session = rehearse(3).until(Stage.mask)
    client = session.clients[ME]
    client.accept(body_of(session))
    with pytest.raises(ValueError, match="40 lanes of 32 bits and 3 of 64"):
        client.mask(vector, tail)
    assert client.stage is None


def test_secrets_go_as_soon_as_they_are_used(rehearse: type[Rehearsal]) -> None:
    session = rehearse(3).until(Stage.agree)
    vault = session.clients[ME].__dict__["_vault"]
    assert not {"_mask", "_box", "_own"} & vault.__dict__.keys()
    session.run()
    assert session.clients[ME].done
    assert session.clients[ME].__dict__["_vault"] is None
    assert session.goes_on()


def test_memory_of_sessions() -> None:
    memory = MemorySessions()
    assert [memory.seen(b"a"), memory.seen(b"a"), memory.seen(b"b")] == [False, True, False]
    memory.sign("job", 1, "train", b"m")
    assert memory.signed("job", 1, "train", b"m")
    assert memory.signed("job", 0, "train", b"m")  # rounds grow
    assert not memory.signed("other", 0, "train", b"m")
    assert not memory.signed("job", 1, "evaluate", b"m")
    assert not memory.signed("job", 2, "train", b"m")  # after a round that failed the model is the same
    assert [memory.joined("job", 1, "train") for _ in range(3)] == [0, 1, 2]
    assert memory.joined("job", 1, "evaluate") == 0


def test_memory_of_sessions_does_not_grow_for_ever() -> None:
    """What cannot be asked about any more is forgotten; what was signed or measured never."""
    memory = MemorySessions()
    for round in range(3000):
        assert not memory.seen(round.to_bytes(32))
        assert memory.joined("job", round, "train") == 0
        memory.sign("job", round, "train", b"m")
    assert memory.joined("job", 3000, "train") == 0
    assert memory.joined("other", 7, "train") == memory.joined("job", 7, "evaluate") == 0
    again = MemorySessions()
    again.load(memory.save())
    assert len(memory.save()) < 100_000
    for one in (memory, again):
        assert all(one.seen(round.to_bytes(32)) for round in range(2000, 3000))
        assert all(one.signed("job", round, "train", b"m") for round in range(3000))
        assert one.joined("job", 3000, "train") == one.joined("other", 7, "train") == 1


def test_no_model_is_measured_twice() -> None:
    memory = MemorySessions()
    memory.sign("job", 1, "evaluate", b"m")
    assert memory.signed("job", 7, "evaluate", b"m")
    assert not memory.signed("job", 7, "evaluate", b"n")
    assert not memory.signed("other", 7, "evaluate", b"m")


def test_what_is_expected_has_all_that_a_client_can_know() -> None:
    assert set(Expected._fields) <= set(Header.__dataclass_fields__)
    assert Trust.none().server == b""


@pytest.mark.parametrize(
    ("own", "said", "refuses"),
    [
        (Policy(), Policy(), False),
        (Policy(), Policy(corrupt=0.1), False),
        (Policy(), Policy(sigma=100), False),
        (Policy(), Policy(dropout=0.3), True),
        (Policy(), Policy(corrupt=0.1, dropout=0.3), True),
        (HONEST, HONEST, False),
        (HONEST, Policy(), False),
    ],
)
def test_in_a_sparse_graph_as_many_neighbours_may_collude_as_the_client_wants(
    own: Policy, said: Policy, refuses: bool
) -> None:
    """With dropout = 0.3 it is 10 of 116, though the policy is kept; by itself it would take 10 of 42."""
    floors, made = Floors(own), choose(200, said)
    if not refuses:
        rules.check_threshold(made, floors)
        return
    with pytest.raises(ProtocolRefused) as caught:
        rules.check_threshold(made, floors)
    assert caught.value.rule == "threshold"
