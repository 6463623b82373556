"""Numbers that a secure sum has no room for: an honest client stops them, and what a liar's do in the sum."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fedkit import securesum
from fedkit.aggregate import Grid, WeightedSum
from fedkit.codecs.none import Plain
from fedkit.dressing import codec_context
from fedkit.errors import ClientFailed, SecAggAborted
from fedkit.job import Job
from fedkit.messages import Update
from fedkit.secagg.settings import SecAgg
from fedkit.securesum import encoding_of, pack, unpack
from fedkit.tensors import Layout
from fedkit_strategies import FedAvg

if TYPE_CHECKING:
    from tests.secagg.conftest import Rehearsal

LIAR = "c001"
LAYOUT = Layout(("w",), ((4,),), ("float32",))
JOB = replace(
    Job(FedAvg(), Plain(), Plain(), LAYOUT, Layout((), (), ()), Grid(20.0, 8.0), {}, 3),
    cohort=3,
    secagg=SecAgg(width=64),
    metrics=("loss",),
)


def packed(session: Rehearsal, value: float = 1.0, weight: float = 2.0, loss: float = 0.5) -> None:
    """Every client has this update."""
    update = Update({"w": np.full(4, value, np.float32)}, weight, {"loss": loss})
    for name in session.names:
        ctx = codec_context(JOB, session.round, 7)
        session.vectors[name], session.tails[name] = pack(JOB, "train", update, ctx)


def opened(session: Rehearsal) -> WeightedSum:
    found = session.run()
    assert session.right(found)
    ctx = codec_context(JOB, session.round, 0)
    return unpack(JOB, "train", found.vector, found.tail, [7] * len(found.members), ctx)


def start(rehearse: type[Rehearsal], round: int = 1) -> Rehearsal:
    session = rehearse(3, encoding=encoding_of(JOB, "train", round, 0.0), round=round)
    packed(session)
    return session


@pytest.mark.parametrize(
    ("figure", "value", "subject"),
    [
        ("value", math.nan, "w"),
        ("value", math.inf, "w"),
        ("value", -math.inf, "w"),
        ("value", 8.5, "w"),
        ("weight", 20.5, "weight"),
        ("weight", math.nan, "weight"),
        ("weight", -1.0, "weight"),
        ("loss", math.inf, "loss"),
        ("loss", 1e30, "loss"),
    ],
)
def test_an_honest_client_sends_nothing_rather_than_that(
    rehearse: type[Rehearsal], figure: str, value: float, subject: str
) -> None:
    with pytest.raises(ClientFailed) as caught:
        packed(start(rehearse), **{figure: value})
    assert caught.value.subject == subject


@pytest.mark.parametrize(
    ("lane", "value"),
    [(1, -(1 << 60)), (1, 1 << 60), (3, 1 << 60), (3, -(1 << 60))],
    ids=["negative weight", "huge weight", "reported by more", "reported by less than nobody"],
)
def test_figures_that_no_honest_clients_make(
    rehearse: type[Rehearsal], monkeypatch: pytest.MonkeyPatch, lane: int, value: int
) -> None:
    """One client's tail turns the total into one that cannot be; unchecked it would be divided by."""

    def lied(session: Rehearsal) -> Rehearsal:
        packed(session)
        session.tails[LIAR][lane] = np.uint64(value % 2**64)
        return session

    for session in start(rehearse).rounds():
        with pytest.raises(SecAggAborted, match="no honest clients can make") as caught:
            opened(lied(session))
        assert not caught.value.retry
    after = session.next()
    packed(after)
    true = opened(after)
    assert true.mean().vector.tolist() == [1.0] * 4
    monkeypatch.setattr(securesum, "_demand_possible", lambda *_: None)
    found = opened(lied(after.next()))
    assert (found.weight, found.metrics) != (true.weight, true.metrics)
