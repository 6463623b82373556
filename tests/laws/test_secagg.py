"""Secure aggregation changes nothing but who sees what: the same survivors, the same bits."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit import Result, RoundPolicy, run, wire
from fedkit.config import Devices, Links
from fedkit.history import Outcome, RoundRecord
from fedkit.messages import Task
from fedkit.secagg.messages import FromClient, FromServer, Stage
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.settings import SecAgg
from fedkit_clients import MLP, NumpyWorkload
from fedkit_simulations.devices import Crash, Fleet
from fedkit_simulations.engine import Simulation

EXACT = SecAgg(Policy(dropout=0.3, smallest=3), width=64, verify=True)
HONEST = SecAgg(Policy(dropout=0.3, mode=Mode.HONEST_SERVER, smallest=3), width=64, verify=True)


def workload() -> NumpyWorkload:
    """Seven clients of different sizes."""
    random = np.random.default_rng(0)
    x = random.normal(size=(140, 6)).astype(np.float32)
    y = (x @ random.normal(size=(6, 3))).argmax(axis=1)
    cuts = np.cumsum([5, 10, 15, 20, 25, 30])
    parts = zip(np.split(x, cuts), np.split(y, cuts), strict=True)
    return NumpyWorkload(MLP(6, (8,), 3), {f"c{i}": part for i, part in enumerate(parts)}, test=(x, y))


def go(
    rounds: int = 3,
    strategy: str = "fedavg",
    devices: Devices | None = None,
    links: Links | None = None,
    seed: int = 0,
    **settings: Any,
) -> Result:
    work = workload()
    federation = Simulation(work, seed=seed, devices=devices, links=links)
    train = {"epochs": 1, "batch": 5, "lr": 0.3}
    return run(strategy, work, federation, rounds=rounds, train=train, seed=seed, **settings)


def bits(result: Result) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in result.model.items()}


def told(result: Result) -> list[object]:
    """What the clients told of each round, and what was measured after it."""
    return [(record.train, record.metrics, record.weight) for record in result.history.rounds]


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox"])
@pytest.mark.parametrize("secagg", [EXACT, HONEST], ids=["lying_server", "honest_server"])
def test_with_64_bits_a_secure_run_is_the_plain_run(strategy: str, secagg: SecAgg) -> None:
    plain, secure = go(strategy=strategy), go(strategy=strategy, secagg=secagg)
    assert bits(secure) == bits(plain)
    assert told(secure) == told(plain)
    for record in secure.history.rounds:
        assert record.secagg is not None
        assert record.secagg.verified
        assert record.count(Outcome.counted) == 7
        assert set(record.secagg.reached.values()) == {7}
        assert ("agree" in record.secagg.reached) == (secagg is EXACT)


def test_with_32_bits_a_secure_run_is_the_plain_run_nearly() -> None:
    plain, secure = go(), go(secagg=replace(EXACT, width=32))
    off = max(float(np.abs(plain.model[name] - secure.model[name]).max()) for name in plain.model)
    assert 0 < off < 1e-3
    assert all(record.secagg is not None and record.secagg.verified for record in secure.history.rounds)


@pytest.mark.parametrize("codec", ["ring-rotq:width=16", "ring-srht:width=16"])
def test_ring_codecs_add_up_under_masks(codec: str) -> None:
    secure = go(codec_up=codec, secagg=EXACT)
    assert all(record.secagg is not None and record.secagg.verified for record in secure.history.rounds)
    assert secure.summary["metrics"]["loss"] < secure.summary["initial"]["loss"]


def test_clients_are_measured_in_secret_as_they_are_in_the_clear() -> None:
    plain, secure = go(evaluate_on="clients"), go(evaluate_on="clients", secagg=EXACT)
    assert secure.history.initial == plain.history.initial != {}
    assert told(secure) == told(plain)


def crashing(monkeypatch: pytest.MonkeyPatch, crashes: dict[tuple[int, str], Stage]) -> None:
    """Devices crash in these rounds, in secure ones at these stages."""

    def crash(self: Fleet, round: int, client: str) -> Crash:
        return "before" if (round, client) in crashes else None

    def stage(self: Fleet, round: int, client: str, stages: int) -> int | None:
        found = crashes.get((round, client))
        return None if found is None else list(Stage).index(found)

    monkeypatch.setattr(Fleet, "crash", crash)
    monkeypatch.setattr(Fleet, "crash_stage", stage)


EARLY = (Stage.advertise, Stage.share, Stage.mask)


@given(
    st.dictionaries(
        st.tuples(st.integers(0, 1), st.sampled_from([f"c{i}" for i in range(7)])),
        st.sampled_from(EARLY),
        max_size=4,
    )
)
@settings(max_examples=6, deadline=None)
def test_the_same_survivors_give_the_same_bits(crashes: dict[tuple[int, str], Stage]) -> None:
    gone = Counter(round for round, _ in crashes)
    if max(gone.values(), default=0) > 2:
        crashes = dict(list(crashes.items())[:2])
    with pytest.MonkeyPatch.context() as patch:
        crashing(patch, crashes)
        plain, secure = go(2), go(2, secagg=EXACT)
    assert bits(secure) == bits(plain)
    assert told(secure) == told(plain)
    for record in secure.history.rounds:
        assert record.secagg is not None
        assert record.secagg.verified
        for (round, client), stage in crashes.items():
            if round == record.round:
                assert client in record.secagg.lost[stage]
                assert record.fates[client].outcome is Outcome.lost
                assert stage in record.fates[client].why


@pytest.mark.parametrize("stage", [Stage.agree, Stage.unmask])
def test_who_is_lost_after_its_update_came_is_in_the_sum(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = go(2)
    crashing(monkeypatch, {(0, "c3"): stage, (1, "c1"): stage, (1, "c6"): stage})
    secure = go(2, secagg=EXACT)
    assert bits(secure) == bits(whole)
    first, second = (record.secagg for record in secure.history.rounds)
    assert first is not None
    assert second is not None
    assert (first.lost, second.lost) == ({stage: ("c3",)}, {stage: ("c1", "c6")})
    assert first.verified
    assert second.verified
    assert secure.history.rounds[0].count(Outcome.counted) == 7


def test_the_order_of_arrival_changes_nothing() -> None:
    plain = go()
    for links in (Links(), Links(profile="4g", spread=1.0), Links(profile="wifi", spread=0.5)):
        assert bits(go(links=links, secagg=EXACT)) == bits(plain)


def test_drops_everywhere_and_every_sum_is_the_plain_one() -> None:
    policy, lost = RoundPolicy(cohort=5, over_select=1.4), Counter[str]()
    result = go(8, devices=Devices(drop=0.15), policy=policy, secagg=EXACT)
    for record in result.history.rounds:
        assert record.secagg is not None
        assert record.secagg.verified is (True if record.ok else None)
        lost.update({stage: len(who) for stage, who in record.secagg.lost.items()})
    assert len(lost) >= 3
    assert sum(record.ok for record in result.history.rounds) >= 6


def test_every_message_of_a_session_survives_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[tuple[str, str]] = Counter()
    send, deliver = Simulation.send, Simulation._deliver

    def sent(self: Simulation, requests: Any) -> None:
        send(self, [travelled(request) for request in requests])

    def delivered(self: Simulation, flight: Any, reply: Any) -> Any:
        return deliver(self, flight, travelled(reply))

    def travelled(message: Any) -> Any:
        frame = wire.encode(message)
        assert wire.size(message) == len(frame)
        seen[type(message).__name__, message.key.stage] += 1
        twin = wire.decode(frame)
        assert isinstance(message, Task) or twin == message
        return twin

    plain = go(2, evaluate_on="clients")
    monkeypatch.setattr(Simulation, "send", sent)
    monkeypatch.setattr(Simulation, "_deliver", delivered)
    secure = go(2, evaluate_on="clients", secagg=EXACT)
    assert bits(secure) == bits(plain)
    sessions = 2 + 3  # of training, and of measuring before, between and after
    for kind in (FromServer, FromClient):
        assert {s: n for (k, s), n in seen.items() if k == kind.__name__} == dict.fromkeys(
            Stage, 7 * sessions
        )


def test_records_of_secure_rounds_come_back_from_json() -> None:
    for record in go(1, devices=Devices(drop=0.2), secagg=EXACT).history.rounds:
        assert RoundRecord.from_json(record.to_json()) == record
