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

if TYPE_CHECKING:
    from tests.secagg.conftest import Rehearsal

VICTIM, HELPERS = "c000", ("c001", "c002")
HELD_BACK = {f"c{i:03}": Stage.advertise for i in range(3, 10)}


def test_the_policy_says_how_many_stay(rehearse: type[Rehearsal], monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy().settled(10, 10)
    assert policy.smallest == 9
    for session in rehearse(10, policy=policy, lose=HELD_BACK).rounds():
        with monkeypatch.context() as patch:  # the server's own view, while it makes the roster
            patch.setattr(Policy, "least", 3)
            body = session.until(Stage.share).server.outbox()[VICTIM]
        with pytest.raises(ProtocolRefused) as caught:
            session.answer(Stage.share, VICTIM, body)
        assert caught.value.rule == "n_min"
    assert session.goes_on()


def test_where_three_are_enough_the_victim_is_known(rehearse: type[Rehearsal]) -> None:
    for session in rehearse(10, policy=Policy(smallest=3), lose=HELD_BACK).rounds():
        found = session.run()
        assert found.members == (VICTIM, *HELPERS)
        assert (found.vector - session.sums(HELPERS)[0] == session.vectors[VICTIM]).all()
