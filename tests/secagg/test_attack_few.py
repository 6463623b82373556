"""A server that holds back the adverts of all but a victim and two clients that work with it.

Their sum, less the helpers' vectors, is the victim's. Losses look like that, so what stops it is the fewest
clients that a sum may have: as many as the policy says stay, not three.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fedkit.errors import ProtocolRefused
from fedkit.secagg.messages import Stage
from fedkit.secagg.parameters import Policy
from fedkit.secagg.server import SecAggServer

if TYPE_CHECKING:
    from tests.secagg.conftest import Rehearsal

VICTIM, HELPERS = "c000", ("c001", "c002")
HELD_BACK = {f"c{i:03}": Stage.advertise for i in range(3, 10)}


def attack(rehearse: type[Rehearsal], policy: Policy, monkeypatch: pytest.MonkeyPatch) -> Rehearsal:
    monkeypatch.setattr(SecAggServer, "_check_enough", lambda self, clients, did: None)
    return rehearse(10, policy=policy, lose=HELD_BACK)


def test_the_policy_says_how_many_stay(rehearse: type[Rehearsal], monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy().settled(10, 10)
    assert policy.smallest == 9
    session = attack(rehearse, policy, monkeypatch)
    monkeypatch.setattr(Policy, "least", 3)  # the server's own view, while it makes the roster
    session.step()
    body = session.server.outbox()[VICTIM]
    monkeypatch.undo()
    with pytest.raises(ProtocolRefused) as caught:
        session.answer(Stage.share, VICTIM, body)
    assert caught.value.rule == "n_min"


def test_where_three_are_enough_the_victim_is_known(
    rehearse: type[Rehearsal], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = attack(rehearse, Policy(smallest=3), monkeypatch)
    found = session.run()
    assert found.members == (VICTIM, *HELPERS)
    known = sum((session.vectors[name] for name in HELPERS[1:]), session.vectors[HELPERS[0]])
    assert (found.vector - known == session.vectors[VICTIM]).all()
