"""Runs over a fleet in this process: the simulation's model to the bit, whatever nodes forget or break."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkit import ConfigError, RoundPolicy, run
from fedkit.conformance import check_federation
from fedkit.events import RunStarted
from fedkit.history import Outcome
from fedkit.job import Job
from fedkit.rounds import Result
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.settings import SecAgg
from fedkit.trainer import Workload
from fedkit_clients.flower import federation as module
from fedkit_clients.flower.federation import FlowerFederation
from fedkit_clients.flower.node import DOWN, Kept
from fedkit_clients.flower.parcel import Row, pack, unpack
from fedkit_simulations.engine import Simulation

Make = Callable[..., Any]
TRAIN = {"epochs": 2, "batch": 5, "lr": 0.2}
HONEST = SecAgg(Policy(mode=Mode.HONEST_SERVER, dropout=0.0, smallest=3), width=64)


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 1e9

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """No test waits, however slow the machine."""
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def go(work: Workload, federation: Any, rounds: int = 2, **options: Any) -> Result:
    policy = options.pop("policy", RoundPolicy(deadline=30.0))
    return run("fedavg", work, federation, rounds=rounds, train=TRAIN, policy=policy, **options)


def over(fleet: Any, wait_for: int = 4, patience: float = 5.0) -> FlowerFederation:
    return FlowerFederation(fleet, wait_for=wait_for, patience=patience)


def same_model(one: Result, other: Result) -> bool:
    both = (one.model, other.model)
    return {n: a.tobytes() for n, a in both[0].items()} == {n: a.tobytes() for n, a in both[1].items()}


CODECS = {"on": "topk:share=0.3|int8", "off": "int8"}
TWO_EACH = (("c0", "c3"), ("c1", "c2"))


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({}, ()),
        ({"codec_up": "eden:bits=1"}, ()),
        ({"codec_up": "topk:share=0.3|int8", "feedback": "on", "rounds": 3}, ()),
        ({"codec_down": "int8"}, ()),
        ({"secagg": HONEST}, ()),
        ({"secagg": HONEST, "evaluate_on": "clients"}, TWO_EACH),
        ({"evaluate_on": "clients"}, TWO_EACH),
        ({"policy": RoundPolicy(cohort=2, deadline=30.0)}, TWO_EACH),
    ],
    ids=["plain", "eden", "feedback", "down", "secure", "secure metrics", "metrics", "cohort"],
)
def test_the_model_is_that_of_the_simulation(
    work: Workload, make_fleet: Make, groups: Any, options: dict[str, Any]
) -> None:
    fleet = make_fleet(*groups, secagg=options.get("secagg", "off"))
    found, wanted = go(work, over(fleet), **options), go(work, Simulation(work), **options)
    assert found.summary["clients_counted"] == wanted.summary["clients_counted"] > 0
    assert found.summary["metrics"] == wanted.summary["metrics"]
    assert same_model(found, wanted)


def test_the_laws_of_federations_hold(make_fleet: Make) -> None:
    jobs: list[Job] = []

    class Look:
        def run_started(self, event: RunStarted) -> None:
            jobs.append(event.job)

    work = next(iter(make_fleet().setups.values())).workload
    go(work, Simulation(work), 1, observers=[Look()])
    done = check_federation(lambda: over(make_fleet()), jobs[0], patience=5.0, repeatable=False)
    assert "send is idempotent" in done


def test_a_node_gets_one_message_at_a_time(work: Workload, make_fleet: Make) -> None:
    fleet = make_fleet(("c0", "c1", "c2", "c3"))
    open_at_once: list[int] = []
    push = fleet.push

    def counted(*given: Any) -> str:
        open_at_once.append(len(fleet.waiting))
        name: str = push(*given)
        return name

    fleet.push = counted
    go(work, over(fleet), evaluate_on="clients")
    assert set(open_at_once) == {0}


def test_verdicts_come_with_the_next_task(work: Workload, make_fleet: Make) -> None:
    fleet = make_fleet()
    go(work, over(fleet), 2)
    told = [unpack(blob, *DOWN) for _, call, blob in fleet.pushed if call == "train"]
    counts = [sum(row.kind == "verdict" for row in rows) for rows in told]
    assert counts == [0] * 4 + [1] * 4


def test_a_node_that_dies_costs_its_clients_the_round_only(work: Workload, make_fleet: Make) -> None:
    fleet = make_fleet()
    federation = over(fleet, wait_for=3)

    class Kill:
        def round_started(self, event: Any) -> None:
            fleet.deaf = {9} if event.plan.round == 1 else set()

    policy = RoundPolicy(deadline=5.0, quorum=3)
    result = go(work, federation, 4, policy=policy, observers=[Kill()])
    fates = [record.fates["c2"].outcome if "c2" in record.fates else None for record in result.history.rounds]
    assert fates[:2] == [Outcome.counted, Outcome.late]
    assert fates[-1] is Outcome.counted, "it was asked again who it is, and takes part"
    assert all(record.ok for record in result.history.rounds)


def test_what_flower_says_of_a_node_is_a_failure_with_code_and_class(
    work: Workload, make_fleet: Make, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = make_fleet()

    class Break:
        def round_started(self, event: Any) -> None:
            if event.plan.round == 1:
                fleet.wrong = {8: ("CLIENT_APP_RAISED_EXCEPTION", "ZeroDivisionError")}

    federation = over(fleet, wait_for=3)
    history = go(work, federation, 3, observers=[Break()]).history
    fate = history.rounds[1].fates["c1"]
    assert fate.outcome is Outcome.failed
    assert fate.why == "flower: ZeroDivisionError: CLIENT_APP_RAISED_EXCEPTION"
    assert "c1" not in history.rounds[2].fates
    assert "its log says more" in caplog.text


def test_a_node_that_sends_rubbish_harms_nobody(work: Workload, make_fleet: Make) -> None:
    fleet = make_fleet()
    fleet.change = lambda node, parcel: parcel[:-3] if node == 8 and parcel[12:20] != b'[["hello' else parcel
    federation = over(fleet, wait_for=3)
    history = go(work, federation, 1).history
    assert history.rounds[0].fates["c1"].outcome is Outcome.failed
    assert history.rounds[0].count(Outcome.counted) == 3


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [Row("kept", (1,)), Row("kept", (1,))],
        [Row("kept")],
        [Row("kept", ("1",))],
        [Row("kept", (-1,))],
        [Row("kept", (1,)), Row("reply", (), b"FK")],
        [Row("job", (), b"")],
        [Row("hello", (0, "c1"))],
    ],
)
def test_a_parcel_that_no_node_sends_is_refused(work: Workload, make_fleet: Make, rows: list[Row]) -> None:
    fleet = make_fleet()
    fleet.change = lambda node, parcel: pack(rows) if node == 8 and b'"hello"' not in parcel else parcel
    history = go(work, over(fleet), 1).history
    assert history.rounds[0].fates["c1"].why == "wire: WireError"
    assert history.rounds[0].count(Outcome.counted) == 3


@pytest.mark.parametrize(
    "row",
    [
        *(
            Row("hello", told)
            for told in [(), (0,), ("0", "c1"), (0, 1), (0, "c1", "c1"), (0, "x" * 256), (0, "")]
        ),
        Row("hello", (0, "c1\n\x1b[31mround 2: accuracy 1.0")),
        Row("kept", (0,)),
    ],
)
def test_a_hello_that_no_node_says_is_not_believed(work: Workload, make_fleet: Make, row: Row) -> None:
    fleet = make_fleet()
    fleet.change = lambda node, parcel: pack([row]) if node == 8 and b'"hello"' in parcel else parcel
    history = go(work, over(fleet, wait_for=3), 1).history
    assert set(history.rounds[0].fates) == {"c0", "c2", "c3"}


def test_a_node_cannot_answer_for_another(work: Workload, make_fleet: Make) -> None:
    fleet = make_fleet()
    seen: dict[int, bytes] = {}

    def change(node: int, parcel: bytes) -> bytes:
        seen[node] = parcel
        return seen[7] if node == 8 and b'"reply"' in parcel else parcel

    fleet.change = change
    history = go(work, over(fleet, wait_for=3), 1).history
    assert history.rounds[0].fates["c0"].outcome is Outcome.counted
    assert history.rounds[0].fates["c1"].outcome is Outcome.failed


def test_two_nodes_cannot_be_one_client(
    work: Workload, make_fleet: Make, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = make_fleet(("c0",), ("c1",), ("c0", "c2"))
    federation = over(fleet, wait_for=2)
    result = go(work, federation, 1)
    assert set(result.history.rounds[0].fates) == {"c0", "c1"}
    assert "says that it is 'c0', which node 7 is" in caplog.text


def test_a_node_that_was_started_again_is_its_clients_once_flower_misses_the_first(make_fleet: Make) -> None:
    fleet = make_fleet()
    federation = over(fleet)
    assert set(federation.clients()) == {"c0", "c1", "c2", "c3"}
    fleet.setups[20] = fleet.setups[7]
    federation.clients()
    assert [node for node, _, _ in fleet.pushed].count(20) == 1
    del fleet.setups[7]
    assert set(federation.clients()) == {"c0", "c1", "c2", "c3"}


def test_nodes_have_time_to_say_who_they_are_however_impatient_the_run(
    work: Workload, make_fleet: Make
) -> None:
    fleet = make_fleet()
    asked: list[float] = []
    push = fleet.push

    def timed(node: int, call: str, blob: bytes, ttl: float) -> str:
        asked.append(ttl)
        name: str = push(node, call, blob, ttl)
        return name

    fleet.push = timed
    over(fleet, patience=1.0).clients()
    assert min(asked) >= 30.0


def test_an_older_state_of_a_node_is_noticed(work: Workload, make_fleet: Make) -> None:
    fleet = make_fleet()
    old: list[bytes] = []

    class TurnBack:
        def round_started(self, event: Any) -> None:
            old.append(fleet.states.get(7, b""))
            if event.plan.round == 2:
                fleet.states[7] = old[1]

    federation = over(fleet)
    history = go(
        work, federation, 4, observers=[TurnBack()], codec_up="topk:share=0.3|int8", feedback="on"
    ).history
    outcomes = [record.fates["c0"] for record in history.rounds]
    assert [fate.outcome for fate in outcomes] == [Outcome.counted] * 2 + [Outcome.failed, Outcome.counted]
    assert "memory_lost" in outcomes[2].why


def test_no_secret_of_a_session_is_left_when_the_run_is_closed(work: Workload, make_fleet: Make) -> None:
    fleet = make_fleet(secagg=HONEST)
    federation = over(fleet)
    seen: list[bool] = []
    work_of = fleet.work

    def looked(node: int, blob: bytes) -> bytes:
        made: bytes = work_of(node, blob)
        seen.append(any(one.machine for one in Kept.read(fleet.states[node]).resting))
        return made

    fleet.work = looked
    go(work, federation, 2, secagg=HONEST)
    assert any(seen)
    federation.close()
    for state in fleet.states.values():
        kept = Kept.read(state)
        assert not kept.resting
        assert not kept.pending


def test_without_identities_a_lying_server_is_not_met(work: Workload, make_fleet: Make) -> None:
    with pytest.raises(ConfigError, match="honest_server"):
        go(work, over(make_fleet()), 1, secagg=SecAgg(Policy(smallest=3), width=64))


def test_a_node_that_wants_secure_sums_gives_no_plain_update(work: Workload, make_fleet: Make) -> None:
    fleet = make_fleet()
    fleet.setups[8] = fleet.setups[8].__class__(work, ("c1",), HONEST)
    history = go(work, over(fleet), 1).history
    assert history.rounds[0].fates["c1"].why == "refused: ClientFailed: secagg"
    assert history.rounds[0].count(Outcome.counted) == 3


def test_a_node_with_another_model_says_so(work: Workload, make_fleet: Make) -> None:
    from fedkit_clients import NumpyWorkload, Softmax

    x, y = np.zeros((4, 5), np.float32), np.zeros(4, np.int64)
    fleet = make_fleet()
    fleet.setups[8] = fleet.setups[8].__class__(NumpyWorkload(Softmax(5, 2), {"c1": (x, y)}), ("c1",), "off")
    assert "layout" in go(work, over(fleet), 1).history.rounds[0].fates["c1"].why


def test_it_waits_no_longer_than_it_is_patient(
    work: Workload, make_fleet: Make, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = make_fleet()
    fleet.deaf = {10}
    history = go(work, over(fleet, patience=40.0), 1).history
    assert set(history.rounds[0].fates) == {"c0", "c1", "c2"}
    assert history.rounds[0].count(Outcome.counted) == 3, (
        "waiting is no part of the round, whose deadline is 30"
    )
    assert 1e9 + 40.0 <= clock.now < 1e9 + 50.0
    assert "can be reached" in caplog.text


@pytest.mark.parametrize("feedback", ["on", "off"])
def test_a_run_that_is_continued_says_what_clients_have_forgotten(
    work: Workload, make_fleet: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, feedback: str
) -> None:
    options = {"codec_up": CODECS[feedback], "feedback": feedback, "out": tmp_path / "run"}
    before = go(work, over(make_fleet()), 1, **options)
    after = go(work, over(make_fleet()), 2, resume=True, **options)
    assert after.summary["bytes_up"] == pytest.approx(2 * before.summary["bytes_up"], rel=0.1)
    assert ("begin without memory" in caplog.text) == (feedback == "on")
    assert same_model(after, go(work, Simulation(work), 2, codec_up=CODECS[feedback], feedback=feedback)) == (
        feedback == "off"
    )


def test_what_was_never_opened_is_closed_without_a_word(make_fleet: Make) -> None:
    fleet = make_fleet()
    over(fleet).close()
    assert not fleet.pushed
