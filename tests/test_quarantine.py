"""A client that says two different things is in no secure session of its job again, and leaves proof."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np
import pytest

from fedkit import Result, run
from fedkit.errors import CheckpointError, WireError
from fedkit.federation import Arrival, server_trust
from fedkit.history import Fate, Outcome, SecureRecord
from fedkit.journal import Journal
from fedkit.messages import ClientId, Metrics, Pass, Task, Trained
from fedkit.quarantine import Quarantine
from fedkit.report import write_report
from fedkit.runfolder import RunFolder
from fedkit.secagg.evidence import Answers, Evidence, Said
from fedkit.secagg.header import Header
from fedkit.secagg.messages import Advert, FromClient, FromServer, Opening, Stage
from fedkit.secagg.parameters import Policy
from fedkit.secagg.server import SecAggServer
from fedkit.secagg.session import advert_text
from fedkit.secagg.settings import SecAgg
from fedkit.secureclient import SecureClients
from fedkit.tensors import Tensors
from fedkit.trainer import Correct
from fedkit_simulations.engine import Simulation

LIAR = "e"
SECRET = SecAgg(Policy(dropout=0.4, smallest=3), width=64, verify=True)
WHY = "two different advertise messages"


class Trainer:
    """Every client moves by one."""

    examples = 10

    def train(self, pass_: Pass, task: Task, correct: Correct | None) -> Trained:
        return Trained({"w": np.ones(3, np.float32)}, 1, 10.0, {"loss": 1.0})

    def evaluate(self, model: Tensors) -> tuple[Metrics, int]:
        return {"loss": float(model["w"][0])}, 10


class Work:
    """Clients a to f."""

    metric_names = ("loss",)

    def init(self, seed: int) -> Tensors:
        return {"w": np.zeros(3, np.float32)}

    def clients(self) -> Sequence[ClientId]:
        return list("abcdef")

    def trainer(self, client: ClientId) -> Trainer:
        return Trainer()

    def evaluate(self, model: Tensors) -> Metrics:
        return {"w": float(model["w"][0])}


@dataclass
class Lies:
    """The second message of the liar, by the key of the first. kind, round: of the session it lies in."""

    kind: str = "train"
    round: int = 0
    second: dict[object, FromClient] = field(default_factory=dict)

    def told(self, credentials: Any, request: FromServer, made: FromClient) -> None:
        key = request.key
        if (key.client, key.stage, key.kind, key.round) != (LIAR, Stage.advertise, self.kind, self.round):
            return
        header = Header.from_bytes(Opening.from_bytes(request.body).header)
        other = replace(Advert.from_bytes(made.body), commitment=b"x" * 32)
        signature = credentials.identity(LIAR).key.sign(advert_text(header.digest, other))
        self.second[key] = FromClient(key, replace(other, signature=signature).to_bytes())


class Lying(Simulation):
    """Delivers what the liar says, and then what else it says."""

    lies: Lies

    def receive(self, until: float, want: int | None = None) -> Iterator[Arrival]:
        for arrival in super().receive(until, want):
            yield arrival
            if (second := self.lies.second.get(arrival.key)) is not None:
                yield replace(arrival, reply=second)


@pytest.fixture
def lies(monkeypatch: pytest.MonkeyPatch) -> Lies:
    made, answer = Lies(), SecureClients.answer

    def both(self: SecureClients, request: FromServer) -> FromClient:
        found = answer(self, request)
        made.told(self._credentials, request, found)
        return found

    monkeypatch.setattr(SecureClients, "answer", both)
    return made


def go(lies: Lies, rounds: int = 2, on: Literal["server", "clients"] = "server", **more: Any) -> Result:
    work = Work()
    federation = Lying(work)
    federation.lies = lies
    more = {"secagg": SECRET, "evaluate_on": on, **more}
    return run("fedavg", work, federation, rounds=rounds, **more)


def secure(record: SecureRecord | None) -> SecureRecord:
    assert record is not None
    return record


def test_it_is_not_invited_again(lies: Lies, caplog: pytest.LogCaptureFixture) -> None:
    first, second, third = go(lies, rounds=3).history.rounds
    assert secure(first.secagg).quarantined == {LIAR: WHY}
    assert secure(first.secagg).offenders == (f"{LIAR}: {WHY}",)
    assert first.fates[LIAR] == Fate(Outcome.counted)  # its first message counts
    for record in (second, third):
        assert record.ok
        assert set(record.fates) == set("abcdf")
        assert secure(record.secagg).quarantined == {LIAR: WHY}
        assert secure(record.secagg).offenders == ()
    assert f"client e sent {WHY}: it is in no secure session of this job again" in caplog.text


@dataclass
class Written:
    """A ledger in memory."""

    names: list[Mapping[ClientId, str]] = field(default_factory=list)
    proofs: list[Evidence] = field(default_factory=list)

    def quarantine(self, clients: Mapping[ClientId, str]) -> None:
        self.names.append(dict(clients))

    def evidence(self, found: Evidence) -> None:
        assert found.client in self.names[-1]  # names first
        self.proofs.append(found)


def test_who_was_caught_before_stays_when_another_is() -> None:
    """In each session others are caught; who is told again keeps its first reason, and proof is one file."""
    ledger, proof = Written(), Evidence("b", b"", b"", Said(b"1", b""), Said(b"2", b""))
    held = Quarantine(ledger, {"a": "first"})
    for caught, proofs in (({"b": "second"}, ()), ({"b": "third"}, (proof,)), ({"c": "fourth"}, (proof,))):
        held.take(cast(Answers, SimpleNamespace(caught=caught, evidence=proofs)))
    everybody = {"a": "first", "b": "second", "c": "fourth"}
    assert held.clients == everybody
    assert ledger.names == [{"a": "first", "b": "second"}, everybody]
    assert ledger.proofs == [proof]


def test_not_even_in_the_next_session_of_the_round(lies: Lies, monkeypatch: pytest.MonkeyPatch) -> None:
    close = SecAggServer._close_mask
    closed: list[int] = []

    def once(self: SecAggServer, answered: tuple[ClientId, ...]) -> None:
        closed.append(len(answered))
        if len(closed) == 1:
            self._abort("for a test")
        close(self, answered)

    monkeypatch.setitem(SecAggServer.__init__.__globals__["_CLOSE"], Stage.mask, once)
    (record,) = go(lies, rounds=1).history.rounds
    assert closed == [6, 5]
    assert secure(record.secagg).attempts == 2
    assert record.fates[LIAR] == Fate(Outcome.refused, f"it sent {WHY}")
    assert all(record.fates[name].outcome is Outcome.counted for name in "abcdf")


def test_nor_after_an_evaluation_in_which_it_lied(lies: Lies) -> None:
    """Before round 0, which has a record of its own."""
    lies.kind = "evaluate"
    history = go(lies, on="clients").history
    assert history.initial == {"loss": 0.0}
    assert secure(history.initial_secagg).quarantined == {LIAR: WHY}
    assert secure(history.initial_secagg).verified
    for record in history.rounds:
        assert set(record.fates) == set("abcdf")
        assert secure(record.secagg_evaluate).reached["invited"] == 5


def test_in_the_evaluation_of_the_same_round_it_is_gone_already(lies: Lies) -> None:
    (record,) = go(lies, rounds=1, on="clients").history.rounds
    assert set(record.fates) == set("abcdef")
    assert secure(record.secagg_evaluate).reached["invited"] == 5


def test_the_proof_is_in_the_run_folder_and_a_resumed_run_remembers(lies: Lies, tmp_path: Path) -> None:
    lies.kind = "evaluate"
    go(lies, rounds=1, on="clients", out=tmp_path / "run")
    (file,) = (tmp_path / "run").glob("evidence-*.json")
    found = Evidence.from_json(file.read_bytes())
    assert found.client == LIAR
    assert found.proves(trust())
    lies.kind = "nowhere"
    result = go(lies, rounds=3, on="clients", out=tmp_path / "run", resume=True)
    assert [set(record.fates) for record in result.history.rounds] == [set("abcdf")] * 3
    assert secure(result.history.initial_secagg).quarantined == {LIAR: WHY}
    told = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert told["secagg"]["quarantined"] == [LIAR]
    assert told["secagg"]["sessions"] == 7  # three rounds of two, and the one before them
    assert told["initial_secagg"]["reached"]["invited"] == 6
    page = write_report(tmp_path / "run").read_text()
    assert f"e, which sent {WHY}" in page
    assert "0, metrics" in page


def dying(lies: Lies, out: Path, left: Path, within: bool) -> None:
    """A run that dies once the liar has lied: in that very session, or when the round is to be recorded.
    left: the folder as it is then.
    """

    def dies(true: Any) -> Any:
        def instead(*given: Any) -> None:
            if lies.second:
                copytree(out, left)
                raise KeyboardInterrupt
            true(*given)

        return instead

    places = [(SecAggServer, "advance")] if within else [(Journal, "record"), (Journal, "checkpoint")]
    with pytest.MonkeyPatch.context() as patch:
        for place, name in places:
            patch.setattr(place, name, dies(getattr(place, name)))
        with pytest.raises(KeyboardInterrupt):
            go(lies, rounds=3, on="clients", out=out)


@pytest.mark.parametrize("within", [True, False], ids=["in the session", "before the record"])
@pytest.mark.parametrize(("kind", "round"), [("train", 0), ("train", 1), ("evaluate", 0), ("evaluate", 1)])
def test_a_server_that_dies_does_not_forget_it(
    lies: Lies, tmp_path: Path, kind: str, round: int, within: bool
) -> None:
    """Also where the round was planned with the liar, and where nothing was checkpointed yet."""
    lies.kind, lies.round = kind, round
    dying(lies, tmp_path / "dead", tmp_path / "run", within)
    (file,) = (tmp_path / "run").glob("evidence-*.json")
    assert Evidence.from_json(file.read_bytes()).proves(trust())
    lies.kind, lies.second = "nowhere", {}
    history = go(lies, rounds=3, on="clients", out=tmp_path / "run", resume=True).history
    first = round if kind == "train" else round - 1  # the round that was cut off
    for record in history.rounds:
        refused = {LIAR: Fate(Outcome.refused, f"it sent {WHY}")} if record.round == first else {}
        before = {LIAR: Fate(Outcome.counted)} if record.round < first else {}
        assert record.fates == {**dict.fromkeys("abcdf", Fate(Outcome.counted)), **refused, **before}
        assert secure(record.secagg).quarantined == ({} if before else {LIAR: WHY})
    assert secure(history.rounds[-1].secagg_evaluate).reached["invited"] == 5


def test_a_quarantine_is_of_one_job_and_read_strictly(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", resume=False)
    try:
        job: Any = SimpleNamespace(id="mine")
        journal = Journal(job, 0, folder)
        assert journal.quarantined() == {}
        journal.quarantine({LIAR: WHY, "x": "another"})
        assert Journal(job, 0, folder).quarantined() == {LIAR: WHY, "x": "another"}
        job.id = "another"
        assert journal.quarantined() == {}
        damaged: object
        for damaged in ([], {"job": "mine"}, {"job": "another", "clients": {"e": 3}}):
            folder.write_json("quarantined.json", damaged)
            with pytest.raises(CheckpointError, match=r"quarantined.json is damaged"):
                journal.quarantined()
    finally:
        folder.close()


def trust() -> Any:
    """Whom clients and server of these simulations believe."""
    found = server_trust(Simulation(Work()))
    assert found is not None
    return found.trust


def test_too_few_are_left_at_last(lies: Lies) -> None:
    """The next round says why it is none."""
    policy = Policy(dropout=0.0, smallest=6)
    first, second = go(lies, secagg=replace(SECRET, policy=policy)).history.rounds
    assert first.ok
    assert not second.ok
    assert "5 clients can take part, a secure sum takes 6 or more" in second.reason


def test_plain_evidence_is_read_strictly() -> None:
    good: Mapping[str, Any] = {
        "format": "fedkit-evidence/1",
        "client": "e",
        "public": "00",
        "voucher": "",
        "statements": [["00", "01"], ["02", "03"]],
    }
    assert Evidence.from_json(json.dumps(good).encode()).to_json() == good
    for key, value in (
        ("format", "fedkit-evidence/2"),
        ("public", "xy"),
        ("client", 3),
        ("statements", [["00", "01"]]),
        ("more", 1),
    ):
        with pytest.raises(WireError):
            Evidence.from_json(json.dumps({**good, key: value}).encode())
