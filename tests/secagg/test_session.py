"""Whole sessions: exact sums whoever is lost, and what nobody learns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fedkit.secagg.header import Encoding
from fedkit.secagg.messages import Stage
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.primitives.suite import Suite

if TYPE_CHECKING:
    from tests.secagg.conftest import Rehearsal

HONEST = Policy(mode=Mode.HONEST_SERVER)
WIDE = Policy(dropout=0.3)


@pytest.mark.parametrize("policy", [Policy(), HONEST], ids=["lying", "honest"])
@pytest.mark.parametrize("n", [3, 5, 10, 40, 100])
def test_the_sum_is_exact(rehearse: type[Rehearsal], n: int, policy: Policy) -> None:
    session = rehearse(n, policy=policy)
    found = session.run()
    assert found.members == tuple(session.names)
    assert session.right(found)
    assert not session.refused
    assert not session.server.lost()


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_every_width_and_suite(rehearse: type[Rehearsal], width: int, suite: Suite) -> None:
    session = rehearse(4, encoding=Encoding(37, width, 5, "x"), suite=suite)
    assert session.right(session.run())


def test_a_vector_of_nothing_but_a_tail(rehearse: type[Rehearsal]) -> None:
    session = rehearse(3, encoding=Encoding(0, 64, 4, "metrics"), kind="evaluate")
    assert session.right(session.run())


@pytest.mark.parametrize("identities", ["ca", "none"])
def test_other_identities(rehearse: type[Rehearsal], identities: str) -> None:
    policy = HONEST if identities == "none" else Policy()
    session = rehearse(4, identities=identities, policy=policy)  # type: ignore[arg-type]
    assert session.right(session.run())


def test_a_sparse_graph(rehearse: type[Rehearsal]) -> None:
    lose = {"c003": Stage.share, "c010": Stage.mask, "c077": Stage.agree, "c139": Stage.unmask}
    session = rehearse(140, lose=lose)
    found = session.run()
    assert session.server.parameters is not None
    assert not session.server.parameters.complete
    assert session.right(found)
    assert set(session.names) - set(found.members) == {"c003", "c010"}
    assert session.server.lost() == lose
