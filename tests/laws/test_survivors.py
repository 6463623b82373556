"""Losses at every stage of secret rounds: bit for bit the model of a plain run with the same survivors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from fedkit.history import Outcome, RoundRecord
from fedkit.secagg.messages import Stage
from tests.drifting import Drifting

Trace = Callable[..., Any]

PHONES = ("rounds.count=5", "rounds.cohort=16", "rounds.over_select=1", "train.epochs=1", "devices.drop=0")
SECRET = ("secagg.mode=lying_server", "secagg.width=64", "secagg.dropout=0.4", "devices.drop=0.25")


def told(record: RoundRecord) -> tuple[object, ...]:
    """What a round came to."""
    return record.ok, record.train, record.weight, record.metrics, record.count(Outcome.counted)


@pytest.mark.parametrize(
    "more", [(), ("strategy.name=fedprox", "strategy.mu=0.1", "devices.stragglers=0.3")], ids=["avg", "prox"]
)
def test_the_same_survivors_make_the_same_model(trace: Trace, more: Sequence[str]) -> None:
    """In the clear no device fails, and those alone are heard whose updates were in the secret sums."""
    secret = trace("digits", (*PHONES, *more, *SECRET))
    plain = trace("digits", (*PHONES, *more), secret.members)
    assert plain.models == secret.models
    assert [told(record) for record in plain.history.rounds] == [told(r) for r in secret.history.rounds]
    lost = Counter[str]()
    for record in secret.history.rounds:
        assert record.secagg is not None
        lost.update({stage: len(who) for stage, who in record.secagg.lost.items()})
    assert set(lost) == set(Stage)


def test_so_it_is_with_what_clients_and_server_remember(trace: Trace) -> None:
    """Sixteen clients, all of them asked in each round: whoever was lost goes on from what it knew before."""
    settings = (*PHONES, "population.clients=16")
    secret = trace("digits", (*settings, *SECRET), strategy=Drifting())
    plain = trace("digits", settings, secret.members, Drifting())
    assert plain.models == secret.models
    assert secret.models != trace("digits", settings, secret.members).models
    everybody = {client for members in secret.members.values() for client in members}
    assert any(client not in secret.members[1] for client in everybody & secret.members[0])


def test_one_survivor_less_makes_another_model(trace: Trace) -> None:
    """So the bits say who was in the sum."""
    secret = trace("digits", (*PHONES, *SECRET))
    members = {**secret.members, 1: set(sorted(secret.members[1])[1:])}
    plain = trace("digits", PHONES, members)
    assert plain.models[:2] == secret.models[:2]
    assert plain.models[2] != secret.models[2]
