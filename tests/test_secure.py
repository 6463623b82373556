"""Secure rounds end to end: losses have a fate, sessions are repeated only where it is safe, runs go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from fedkit import Result, RoundPolicy, run
from fedkit.config import Devices
from fedkit.errors import ConfigError, RunFailed, SecAggAborted
from fedkit.federation import Request, Verdict
from fedkit.history import Fate, Outcome, RoundRecord, SecureRecord
from fedkit.job import Job
from fedkit.messages import ClientId, Key, Metrics, Pass, Task, Trained
from fedkit.participant import Participant
from fedkit.secagg.identity import Floors
from fedkit.secagg.messages import FromClient, FromServer, Stage
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.server import SecAggServer
from fedkit.secagg.settings import SecAgg
from fedkit.secureclient import SecureClients, nameless
from fedkit.tensors import Tensors
from fedkit.trainer import Correct
from fedkit_simulations.devices import Fleet
from fedkit_simulations.engine import Simulation

SIX = tuple("abcdef")
EXACT = SecAgg(Policy(dropout=0.3, smallest=3), width=64, verify=True)
HONEST = replace(EXACT, policy=Policy(dropout=0.3, mode=Mode.HONEST_SERVER, smallest=3))


@dataclass
class Trainer:
    """Moves every entry by `step`; `calls` counts how often."""

    step: float
    calls: list[Task] = field(default_factory=list)
    error: Exception | None = None
    examples: int = 10

    def train(self, pass_: Pass, task: Task, correct: Correct | None) -> Trained:
        self.calls.append(task)
        if self.error is not None:
            raise self.error
        return Trained({"w": np.full(9, self.step, np.float32)}, 1, 10.0, {"loss": self.step, "own": 1.0})

    def evaluate(self, model: Tensors) -> tuple[Metrics, int]:
        return {"loss": self.step}, 10


@dataclass
class Work:
    """Clients a to f, the n-th of which moves by 2^-n."""

    trainers: Mapping[ClientId, Trainer] = field(
        default_factory=lambda: {name: Trainer(2.0**-n) for n, name in enumerate(SIX)}
    )

    def init(self, seed: int) -> Tensors:
        return {"w": np.zeros(9, np.float32)}

    def clients(self) -> Sequence[ClientId]:
        return list(self.trainers)

    def trainer(self, client: ClientId) -> Trainer:
        return self.trainers[client]

    def evaluate(self, model: Tensors) -> Metrics:
        return {"w": float(model["w"][0])}


class Recording(Simulation):
    """Notes what was sent, and what clients were told of their tasks."""

    def __init__(self, work: Work, **more: Any) -> None:
        super().__init__(work, **more)
        self.sent: list[Request] = []
        self.told: dict[ClientId, Verdict] = {}

    def settle(self, verdicts: Mapping[Key, Verdict]) -> None:
        self.told |= {
            key.client: how for key, how in verdicts.items() if key.kind == "train" and not key.stage
        }
        super().settle(verdicts)

    def send(self, requests: Any) -> None:
        fresh = list(requests)
        self.sent += fresh
        super().send(fresh)

    def stages(self, round: int, attempt: int) -> list[str]:
        """The stages that were asked for in a session, in order."""
        keys = [one.key for one in self.sent if isinstance(one, FromServer)]
        return list(dict.fromkeys(k.stage for k in keys if (k.round, k.attempt) == (round, attempt)))


def go(
    work: Work | None = None,
    rounds: int = 1,
    secagg: SecAgg = EXACT,
    federation: Simulation | None = None,
    **more: Any,
) -> Result:
    work = work if work is not None else Work()
    federation = federation if federation is not None else Simulation(work)
    return run("fedavg", work, federation, rounds=rounds, secagg=secagg, **more)


def secure(record: RoundRecord) -> SecureRecord:
    assert record.secagg is not None
    return record.secagg


def test_masks_are_removed_by_the_threads_that_there_are_cores_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Noted(SecAggServer):
        def __init__(self, *given: Any, threads: int, **more: Any) -> None:
            made.append(threads)
            super().__init__(*given, threads=threads, **more)

    monkeypatch.setattr("fedkit.secure.mask_threads", lambda: 3)
    monkeypatch.setattr("fedkit.secure.SecAggServer", Noted)
    assert secure(go(rounds=2).history.rounds[-1]).verified
    assert made == [3, 3]


def crashing(monkeypatch: pytest.MonkeyPatch, stage: Stage, names: str, rounds: Sequence[int] = (0,)) -> None:
    """These devices crash at this stage."""

    def crash_stage(self: Fleet, round: int, client: str, stages: int) -> int | None:
        return list(Stage).index(stage) if round in rounds and client in names else None

    monkeypatch.setattr(Fleet, "crash_stage", crash_stage)


def mean(names: str) -> float:
    return sum(2.0 ** -SIX.index(name) for name in names) / len(names)


# Losses


@pytest.mark.parametrize("secagg", [EXACT, HONEST], ids=["lying_server", "honest_server"])
@pytest.mark.parametrize("stage", list(Stage))
def test_a_client_lost_at_any_stage_has_its_fate(
    stage: Stage, secagg: SecAgg, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing(monkeypatch, stage, "c")
    result = go(secagg=secagg)
    (record,) = result.history.rounds
    told, late = secure(record), stage in (Stage.agree, Stage.unmask)
    at = Stage.unmask if late and secagg is HONEST else stage
    assert told.lost == {at: ("c",)}
    assert (told.attempts, told.aborts, told.verified) == (1, (), True)
    fate = record.fates["c"]
    assert fate.outcome is (Outcome.counted if late else Outcome.lost)
    assert at in fate.why
    assert all(record.fates[name] == Fate(Outcome.counted) for name in "abdef")
    assert result.model["w"][0] == mean("abcdef" if late else "abdef")
    reached = [
        n
        for s, n in told.reached.items()
        if s != "invited" and list(Stage).index(Stage(s)) >= list(Stage).index(at)
    ]
    assert told.reached["invited"] == 6
    assert reached == [5] * len(reached)


def test_a_crashed_device_costs_its_stage_the_time_until_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for stage, end in zip(Stage, (10.0, 20.0, 80.0, 90.0, 100.0), strict=True):
        crashing(monkeypatch, stage, "c")
        (record,) = go(policy=RoundPolicy(deadline=100.0)).history.rounds
        assert end <= record.virtual_end < end + 5


def test_who_fails_in_training_is_told_of_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    work = Work()
    work.trainers["b"].error = ValueError("no labels")
    result = go(work)
    (record,) = result.history.rounds
    assert record.fates["b"] == Fate(Outcome.failed, "exception: ValueError: no labels")
    assert secure(record).lost == {"mask": ("b",)}
    assert result.model["w"][0] == mean("acdef")
    assert "no labels" in caplog.text


def test_a_run_in_which_all_fail_stops_with_the_cause() -> None:
    work = Work()
    for trainer in work.trainers.values():
        trainer.error = KeyError("label")
    with pytest.raises(RunFailed, match=r"all 6 clients of the round failed, .*KeyError: 'label'"):
        go(work, rounds=3)


def test_an_update_that_does_not_fit_is_refused_by_its_own_client() -> None:
    work = Work()
    work.trainers["d"].step = 1e9
    (record,) = go(work).history.rounds
    assert record.fates["d"].outcome is Outcome.failed
    assert "diverged" in record.fates["d"].why


@pytest.mark.parametrize("stage", list(Stage))
def test_a_client_that_sends_rubbish_is_refused_and_the_others_are_summed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = SecureClients.answer

    def rubbish(self: SecureClients, request: FromServer) -> FromClient:
        made = answer(self, request)
        bad = (request.key.client, request.key.stage) == ("e", stage)
        return replace(made, body=made.body[:-1] + bytes([made.body[-1] ^ 1])) if bad else made

    monkeypatch.setattr(SecureClients, "answer", rubbish)
    result = go()
    (record,) = result.history.rounds
    late = stage in (Stage.agree, Stage.unmask)
    assert record.fates["e"].outcome is (Outcome.counted if late else Outcome.refused)
    assert secure(record).lost == {stage: ("e",)}
    assert secure(record).verified
    assert result.model["w"][0] == mean("abcdef" if late else "abcdf")


def spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What client e masks arrives damaged."""
    answer = SecureClients.answer

    def damaged(self: SecureClients, request: FromServer) -> FromClient:
        made = answer(self, request)
        bad = (request.key.client, request.key.stage) == ("e", Stage.mask)
        return replace(made, body=made.body[:-1] + bytes([made.body[-1] ^ 1])) if bad else made

    monkeypatch.setattr(SecureClients, "answer", damaged)


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (Outcome.lost, Verdict.lost),
        (Outcome.late, Verdict.late),
        (Outcome.failed, Verdict.refused),
        (Outcome.refused, Verdict.refused),
        (Outcome.unwanted, Verdict.unwanted),
    ],
)
def test_clients_are_told_that_they_counted_only_if_they_did(
    outcome: Outcome, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They keep what they remember of the round only then."""
    work, policy, devices = Work(), RoundPolicy(), Devices()
    if outcome is Outcome.lost:
        crashing(monkeypatch, Stage.mask, "e")
    elif outcome is Outcome.late:
        policy, devices = RoundPolicy(deadline=0.2), Devices(spread=1.0)
    elif outcome is Outcome.failed:
        work.trainers["e"].error = ValueError("no data")
    elif outcome is Outcome.refused:
        spoilt(monkeypatch)
    else:
        policy, devices = RoundPolicy(cohort=4, over_select=1.5), Devices(spread=1.0)
    federation = Recording(work, devices=devices)
    (record,) = go(work, federation=federation, policy=policy).history.rounds
    assert record.ok
    assert {fate.outcome for fate in record.fates.values()} == {Outcome.counted, outcome}
    expected = {Outcome.counted: Verdict.counted, outcome: verdict}
    assert federation.told == {client: expected[fate.outcome] for client, fate in record.fates.items()}


def test_nobody_counted_where_the_sum_was_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though all have trained, and sent what they masked."""
    crashing(monkeypatch, Stage.unmask, "abcd")
    work = Work()
    federation = Recording(work)
    with pytest.raises(RunFailed, match="fewer than t=4 shares came"):
        go(work, federation=federation)
    assert all(trainer.calls for trainer in work.trainers.values())
    assert set(federation.told) == set(SIX)
    assert Verdict.counted not in federation.told.values()


# Aborts and second sessions


def test_a_round_that_aborts_is_recorded_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    crashing(monkeypatch, Stage.unmask, "abc")
    federation = Recording(Work())
    result = go(rounds=2, federation=federation)
    first, second = result.history.rounds
    assert (first.ok, second.ok) == (False, True)
    assert first.reason.startswith("secure aggregation aborted: ")
    assert secure(first).aborts == (first.reason.removeprefix("secure aggregation aborted: "),)
    assert secure(first).attempts == 1  # all have signed: a second sum would not be safe
    assert secure(first).lost == {"unmask": ("a", "b", "c")}
    assert (secure(first).verified, secure(second).verified) == (None, True)
    assert first.count(Outcome.counted) == 0
    assert first.fates["d"] == Fate(Outcome.unwanted, "the session was aborted")
    assert federation.stages(0, 0) == list(Stage)
    assert federation.stages(0, 1) == []
    assert "round 1, session 1: secure aggregation aborted" in caplog.text  # as progress counts them


def test_a_session_that_aborts_before_anybody_signed_is_repeated_with_who_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crashing(monkeypatch, Stage.mask, "abc")
    work = Work()
    federation = Recording(work)
    result = go(work, federation=federation)
    (record,) = result.history.rounds
    assert record.ok
    assert (secure(record).attempts, len(secure(record).aborts)) == (2, 1)
    assert secure(record).lost == {"mask": ("a", "b", "c")}
    assert {n for s, n in secure(record).reached.items()} == {3}
    assert secure(record).verified
    assert result.model["w"][0] == mean("def")
    assert federation.stages(0, 0) == ["advertise", "share", "mask"]
    assert federation.stages(0, 1) == list(Stage)
    assert [len(work.trainers[name].calls) for name in "cd"] == [0, 2]
    assert record.virtual_end <= record.virtual_start + 600.0


def test_sessions_are_repeated_as_often_as_the_job_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    crashing(monkeypatch, Stage.mask, "abc")
    first, second = go(rounds=2, secagg=replace(EXACT, retries=0)).history.rounds
    assert (first.ok, second.ok) == (False, True)
    assert secure(first).attempts == 1


def test_too_few_for_a_second_session_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    crashing(monkeypatch, Stage.share, "abcd")
    first, second = go(rounds=2).history.rounds
    assert second.ok
    assert "2 clients can take part, a secure sum takes 3 or more" in first.reason
    assert secure(first).attempts == 1
    assert len(secure(first).aborts) == 1
    assert secure(first).aborts[0] in first.reason


def test_below_the_quorum_nothing_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    crashing(monkeypatch, Stage.mask, "a")
    federation = Recording(Work())
    first, second = go(rounds=2, policy=RoundPolicy(quorum=6), federation=federation).history.rounds
    assert second.ok
    assert first.reason == "secure aggregation aborted: 5 masked updates came, the quorum is 6"
    assert federation.stages(0, 0) == ["advertise", "share", "mask"]
    assert federation.stages(0, 1) == []


def test_a_round_with_too_few_clients_opens_no_session() -> None:
    devices = Devices(availability="bernoulli", available=0.5)
    result = go(rounds=12, federation=Simulation(Work(), devices=devices), policy=RoundPolicy(max_failures=9))
    few = [r for r in result.history.rounds if 0 < len(r.fates) < 3]
    assert few
    for record in few:
        assert "a secure sum takes 3 or more" in record.reason
        assert secure(record).attempts == 0
        assert {fate.outcome for fate in record.fates.values()} == {Outcome.unwanted}


# The attack of two sums


class Greedy:
    """A server that opens a second session after the survivors of the first were signed.

    The sums of the two would differ by the update of one client.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stage: Stage) -> None:
        advance = SecAggServer.advance

        def lies(server: SecAggServer) -> None:
            if (server.header.attempt, server.stage) == (0, stage):
                server.drop("a")
                raise SecAggAborted("on purpose", retry=True)
            advance(server)

        monkeypatch.setattr(SecAggServer, "advance", lies)


@pytest.mark.parametrize(
    ("secagg", "stage"), [(EXACT, Stage.agree), (EXACT, Stage.unmask), (HONEST, Stage.unmask)]
)
def test_no_client_takes_part_in_a_second_sum_of_a_round(
    secagg: SecAgg, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    Greedy(monkeypatch, stage)
    work = Work()
    federation = Recording(work)
    with pytest.raises(RunFailed):
        go(work, secagg=secagg, federation=federation)
    assert federation.stages(0, 1) == ["advertise"]
    assert [len(trainer.calls) for trainer in work.trainers.values()] == [1] * 6


def test_every_client_says_that_it_refuses_the_second_sum(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    Greedy(monkeypatch, Stage.agree)
    with pytest.raises(RunFailed, match="second sum"):
        go(out=tmp_path / "run")
    record = RoundRecord.from_json((tmp_path / "run" / "rounds.jsonl").read_text())
    assert all(fate.outcome is Outcome.failed and "second sum" in fate.why for fate in record.fates.values())


def test_before_anybody_signed_the_same_server_gets_its_second_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Greedy(monkeypatch, Stage.mask)
    (record,) = go().history.rounds
    assert record.ok
    assert secure(record).aborts == ("on purpose",)


# Without identities, and what is enough


class Nameless(Simulation):
    """A federation in which nobody vouches for anybody's key."""

    floors = HONEST.policy

    def trust(self) -> Any:
        return None

    def open(self, job: Job) -> None:
        super().open(job)
        self._participant = Participant(job, self._workload, self._store, nameless(Floors(self.floors)))


def test_without_identities_there_are_sums_against_an_honest_server_only() -> None:
    settings = replace(HONEST, verify=False)
    result = go(secagg=settings, federation=Nameless(Work()))
    (record,) = result.history.rounds
    assert record.ok
    assert secure(record).identities == "none"
    assert secure(record).client_seconds == 0.0
    assert result.model["w"][0] == mean("abcdef")
    with pytest.raises(ConfigError, match=r"lying_server.*identities"):
        go(federation=Nameless(Work()))


class Wary(Nameless):
    """Its clients insist on what only identities give."""

    floors = EXACT.policy


def test_whoever_insists_on_identities_joins_no_session_without() -> None:
    with pytest.raises(RunFailed, match=r"all 6 clients of the round failed.*identities"):
        go(secagg=replace(HONEST, verify=False), federation=Wary(Work()))


def test_a_quorum_of_updates_is_none_of_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the clear: who answers is measured."""
    answer = SecureClients.answer

    def silent(self: SecureClients, request: FromServer) -> FromClient:
        if request.key.kind == "evaluate" and request.key.client == "a":
            raise ValueError("no test data")
        return answer(self, request)

    monkeypatch.setattr(SecureClients, "answer", silent)
    result = go(policy=RoundPolicy(quorum=6), evaluate_on="clients")
    assert result.history.rounds[0].metrics == {"loss": mean("bcdef")}


def test_over_selection_ends_the_round_with_who_is_wanted() -> None:
    federation = Simulation(Work(), devices=Devices(spread=1.0))
    (record,) = go(federation=federation, policy=RoundPolicy(cohort=4, over_select=1.5)).history.rounds
    assert (record.count(Outcome.counted), record.count(Outcome.unwanted)) == (4, 2)
    assert secure(record).lost == {}
    assert secure(record).verified


def test_metrics_that_the_job_does_not_name_stay_with_the_clients(caplog: pytest.LogCaptureFixture) -> None:
    (record,) = go().history.rounds
    assert record.train == {"loss": mean("abcdef")}
    told = [record.message for record in caplog.records if "metric_names" in record.message]
    assert told == ["metric 'own' stays with the clients: it is not in the workload's metric_names"]


def test_a_workload_whose_metrics_have_no_room_at_all_is_told_what_to_name() -> None:
    """Its run would go on without any, in silence."""
    work = Work()
    work.metric_names = ("f1",)  # type: ignore[attr-defined]
    with pytest.raises(RunFailed, match=r"update.*'?loss'?.*is not in the workload's metric_names"):
        go(work, rounds=2)


def test_the_plain_path_knows_nothing_of_sessions() -> None:
    federation = Recording(Work())
    result = run("fedavg", Work(), federation, rounds=1)
    assert result.history.rounds[0].secagg is None
    assert result.summary["secagg"] is None
    assert all(isinstance(one, Task) and one.session == "" for one in federation.sent)
