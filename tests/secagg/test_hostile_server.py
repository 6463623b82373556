"""A server that lies: every client refuses, by the rule's name; with that rule switched off the lie works."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from hashlib import sha256
from typing import TYPE_CHECKING, NoReturn, TypeAlias

import pytest

from fedkit.errors import ConfigError, ProtocolRefused, SecAggAborted
from fedkit.messages import ClientId
from fedkit.secagg import parameters, rules
from fedkit.secagg import session as session_module
from fedkit.secagg.header import Encoding, Header
from fedkit.secagg.identity import Floors, SigningKey
from fedkit.secagg.messages import Advert, Opening, Roster, Stage
from fedkit.secagg.parameters import MOST, Mode, Parameters, Policy, assess
from fedkit.secagg.session import Session, advert_text, header_text

if TYPE_CHECKING:
    from tests.secagg.conftest import Lie, Rehearsal

Off: TypeAlias = Callable[..., None]

NOBODY = Policy(corrupt=0.0)  # with it, k = 4 and t = 3 will do for 12 clients


# The header


def header(**change: object) -> Lie:
    """A header with other fields, signed by the server."""

    def lie(session: Rehearsal, _: ClientId, __: bytes) -> bytes:
        data = replace(session.header, **change).to_bytes()  # type: ignore[arg-type]
        return Opening(data, session.signer.sign(header_text(data))).to_bytes()

    return lie


def strange(session: Rehearsal, _: ClientId, __: bytes) -> bytes:
    """A header signed by somebody else."""
    data, key = session.header.to_bytes(), SigningKey(b"k" * 32)
    return Opening(data, key.sign(header_text(data))).to_bytes()


HEADERS: Mapping[str, tuple[str, Lie]] = {
    "server": ("check_server", strange),
    "job": ("check_expected", header(job="another")),
    "round": ("check_expected", header(round=7)),
    "kind": ("check_expected", header(kind="evaluate")),
    "attempt": ("check_expected", header(attempt=1)),
    "model": ("check_model", header(model=b"m" * 32)),
    "encoding": ("check_encoding", header(encoding=Encoding(40, 32, 3, "smaller weights"))),
    "identities": ("check_identities", header(identities="none")),
    "mode": ("check_floors", header(policy=Policy(mode=Mode.HONEST_SERVER))),
    "corrupt": ("check_floors", header(policy=Policy(corrupt=0.01))),
    "dropout": ("check_floors", header(policy=Policy(dropout=0.0))),
    "sigma": ("check_floors", header(policy=Policy(sigma=39))),
}


def test_fewer_clients_than_the_client_wants(rehearse: type[Rehearsal], off: Off) -> None:
    """They are counted again and again, so the header is not the only place."""
    floors = Floors(Policy(smallest=6))
    for check, rule in (
        ("check_floors", "smallest"),
        ("check_clients", "n_min"),
        ("check_threshold", "threshold"),
    ):
        assert rehearse(5, floors=floors).refusals() == {rule}
        off(check)
    assert rehearse(5, floors=floors).refusals() == {"n_min"}
    off("check_enough")
    for session in rehearse(5, floors=floors).rounds():
        assert session.right(session.run())


def test_a_sid_that_is_stale(rehearse: type[Rehearsal], off: Off) -> None:
    """A session of the first round is opened again in the second."""
    first = rehearse(5).until(Stage.share)
    for second in (first.next(), first.next().next()):
        stale = header(sid=first.header.sid, round=second.round, model=second.header.model)
        assert second.lying(Stage.advertise, stale).refusals_once() == {"sid"}
    assert second.goes_on()
    off("check_sid")
    again = second.next().next()
    stale = header(sid=first.header.sid, round=again.round, model=again.header.model)
    assert again.lying(Stage.advertise, stale).answered(Stage.advertise)


def test_more_losses_allowed_than_the_client_would_and_so_fewer_shares(
    rehearse: type[Rehearsal], off: Off
) -> None:
    """The policy's floors are kept; 5 of 11 lost leave t = 6, with which nobody may collude, not 4."""
    many = Policy(dropout=0.46)
    assert Floors().parameters(11).colluding == 4
    assert rehearse(11, policy=many, floors=Floors()).refusals() == {"threshold"}
    for agreed in rehearse(11, policy=many).rounds():
        assert agreed.right(agreed.run())
    off("check_threshold")
    for session in rehearse(11, policy=many, floors=Floors()).rounds():
        assert session.right(session.run())
        assert session.server.parameters is not None
        assert session.server.parameters.colluding == 0


@pytest.mark.parametrize("explicit", [(9, 6), (4, 3)])
def test_k_and_t_that_the_client_never_agreed_to(
    rehearse: type[Rehearsal], off: Off, explicit: tuple[int, int]
) -> None:
    assert rehearse(10, policy=NOBODY, explicit=explicit, floors=Floors(NOBODY)).refusals() == {"threshold"}
    for both in rehearse(10, policy=NOBODY, explicit=explicit, floors=Floors(NOBODY, explicit)).rounds():
        assert both.right(both.run())
    off("check_threshold")
    for session in rehearse(10, policy=NOBODY, explicit=explicit, floors=Floors(NOBODY)).rounds():
        assert session.right(session.run())


class Lax(Header):
    """A header whose reader does not ask what k and t are worth."""

    def parameters(self, clients: int) -> Parameters:
        assert self.explicit is not None
        return assess(clients, *self.explicit, self.policy)


def test_k_and_t_that_keep_no_policy(
    rehearse: type[Rehearsal], off: Off, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two neighbours and two shares: one who colludes is enough, though the policy expects one of 20."""

    def sessions() -> Iterator[Rehearsal]:
        for made in rehearse(20, explicit=(2, 2)).rounds():
            made.server.header = Lax(*(getattr(made.header, field.name) for field in fields(Header)))
            yield made

    assert [session.refusals_once() for session in sessions()] == [{"parameters"}] * 2
    monkeypatch.setattr(rules, "parameters_of", lambda header, n: assess(n, 2, 2, header.policy))
    assert [session.refusals_once() for session in sessions()] == [{"threshold"}] * 2
    off("check_threshold")
    for lied in sessions():
        assert lied.right(lied.run())
        assert lied.server.parameters is not None
        assert lied.server.parameters.privacy == 0.0  # log2: certain to fail


# The roster


def swapped(session: Rehearsal, name: ClientId, body: bytes) -> bytes:
    """The last two clients have changed places."""
    found = Roster.from_bytes(body, session.n)
    order = [*range(session.n - 2), session.n - 1, session.n - 2]
    clients = tuple(found.clients[i] for i in order)
    adverts = tuple(sorted(found.adverts, key=lambda advert: clients.index(advert.client)))
    return Roster(clients, tuple(found.digests[i] for i in order), adverts).to_bytes()


def without_own(session: Rehearsal, name: ClientId, body: bytes) -> bytes:
    """The client's advert is another one, for all others."""
    found = Roster.from_bytes(body, session.n)
    digests = [
        b"x" * 32 if client == name else d for client, d in zip(found.clients, found.digests, strict=True)
    ]
    return replace(found, digests=tuple(digests)).to_bytes()


def two_rosters(session: Rehearsal, name: ClientId, body: bytes) -> bytes:
    """An advert that is served is not the one in the roster."""
    found = Roster.from_bytes(body, session.n)
    digests = [
        d if client == name else b"x" * 32 for client, d in zip(found.clients, found.digests, strict=True)
    ]
    return replace(found, digests=tuple(digests)).to_bytes()


def reversed_graph(session: Rehearsal, _: ClientId, body: bytes) -> bytes:
    """Shares for one would go to another."""
    found = Roster.from_bytes(body, session.n)
    return replace(found, adverts=found.adverts[::-1]).to_bytes()


def forging(key: SigningKey | None, **change: bytes) -> Lie:
    """The last neighbour's advert is another one, signed by `key` or by its owner; the roster agrees."""

    def lie(session: Rehearsal, _: ClientId, body: bytes) -> bytes:
        found = Roster.from_bytes(body, session.n)
        true = found.adverts[-1]
        made = replace(true, **change)  # type: ignore[arg-type]
        text = advert_text(session.header.digest, made)
        made = replace(made, signature=(key or session.keys[true.client]).sign(text))
        at = found.clients.index(true.client)
        digests = (*found.digests[:at], made.digest, *found.digests[at + 1 :])
        return replace(found, digests=digests, adverts=(*found.adverts[:-1], made)).to_bytes()

    return lie


ROSTERS: Mapping[str, tuple[str, Lie]] = {
    "order": ("check_order", swapped),
    "own advert": ("check_own", without_own),
    "root": ("check_root", two_rosters),
    "graph": ("check_graph", reversed_graph),
}


@pytest.mark.parametrize(
    ("stage", "rule"),
    [*((Stage.advertise, rule) for rule in HEADERS), *((Stage.share, rule) for rule in ROSTERS)],
)
def test_a_header_or_a_roster_that_lies(rehearse: type[Rehearsal], off: Off, stage: Stage, rule: str) -> None:
    check, lie = (HEADERS if stage is Stage.advertise else ROSTERS)[rule]
    assert rehearse(5).lying(stage, lie).refusals() == {rule}
    off(check)
    assert rehearse(5).lying(stage, lie).answered(stage)


def invented(session: Rehearsal, name: ClientId, body: bytes) -> bytes:
    """A third of the roster does not exist; the server tries hashes until no neighbour is one of those."""
    found = Roster.from_bytes(body, session.n)
    true = [client for client in session.names if client == name or client < "c008"]
    clients = tuple(sorted([*true, *(f"d{i:03}" for i in range(session.n - len(true)))]))
    real = {client: Advert.from_bytes(session.seen[Stage.advertise, client]) for client in true}
    for attempt in range(1000):
        made = {client: sha256(f"{client} {attempt}".encode()).digest() for client in clients}
        digests = tuple(real[c].digest if c in real else made[c] for c in clients)
        known = Session(session.header, clients, digests, session.header.parameters(session.n))
        near = [clients[number] for number in known.graph[known.number[name]]]
        if set(near) <= set(real):
            return Roster(clients, digests, tuple(real[c] for c in near)).to_bytes()
    raise AssertionError(found)


def test_clients_that_do_not_exist(rehearse: type[Rehearsal], off: Off) -> None:
    """Neighbours prove who they are; of the others a roster file knows that they exist."""

    def session() -> Rehearsal:
        return rehearse(12, policy=NOBODY, explicit=(4, 3)).lying(Stage.share, invented)

    assert session().refusals() == {"unknown client"}
    off("check_known")
    assert session().answered(Stage.share)


def test_a_graph_that_would_fill_the_memory_of_a_client(
    rehearse: type[Rehearsal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names cost a server nothing where a CA vouches: only neighbours have to be certified."""
    computed: list[tuple[int, int]] = []

    def note(clients: int, degree: int, _: bytes) -> NoReturn:
        computed.append((clients, degree))
        raise ConfigError("a test computes no such graph")

    monkeypatch.setattr(session_module, "neighbours", note)
    names = tuple(sorted({f"x{i:05}" for i in range(MOST - 1)} | {"c001"}))

    def refusal(round: int) -> str:
        session = rehearse(3, identities="ca", round=round)
        body = header(clients=MOST, explicit=(40_000, 30_000))(session, "c001", b"")
        own = Advert.from_bytes(session.answer(Stage.advertise, "c001", body)).digest
        digests = tuple(own if name == "c001" else bytes(32) for name in names)
        with pytest.raises(ProtocolRefused) as caught:
            session.answer(Stage.share, "c001", Roster(names, digests, ()).to_bytes())
        return caught.value.rule

    assert [refusal(round) for round in (1, 2)] == ["parameters"] * 2
    assert not computed
    monkeypatch.setattr(parameters, "MOST_ENTRIES", MOST**2)
    assert refusal(3) == "graph"
    assert computed == [(MOST, 40_000)]


def test_a_graph_that_is_not_found_is_no_session(
    rehearse: type[Rehearsal], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> NoReturn:
        raise ConfigError("no graph of 5 clients was found")

    session = rehearse(5)
    with monkeypatch.context() as patch:
        patch.setattr(session_module, "neighbours", none)
        with pytest.raises(SecAggAborted, match="no graph of 5 clients was found") as caught:
            session.run()
    assert caught.value.retry
    assert session.goes_on()
