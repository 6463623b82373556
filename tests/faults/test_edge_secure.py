"""Secure sums over sockets, among clients and a server that are killed: the plain sum of whoever is in it.

Clients and server are threads here, each with nothing but its folder from one life to the next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from fedkit import jobfile, scenario, wire
from fedkit.aggregator.serve import serve
from fedkit.aggregator.service import Service
from fedkit.config import Scenario
from fedkit.history import Outcome, RoundRecord
from fedkit.job import Job
from fedkit.keyfile import make_key
from fedkit.launch import build, run_built, run_scenario
from fedkit.messages import ClientId, Key
from fedkit.rounds import Result
from fedkit.secagg.evidence import read_evidence
from fedkit.secagg.header import Header
from fedkit.secagg.identity import SigningKey, Trust
from fedkit.secagg.messages import Advert, FromClient, FromServer, Opening, Stage
from fedkit.secagg.server import SecAggServer
from fedkit.secagg.session import advert_text
from fedkit.secureclient import SecureClients
from fedkit_clients.edge import runtime
from fedkit_clients.edge.answers import Refused, Unreachable
from fedkit_clients.edge.joined import Joined
from fedkit_clients.edge.membership import Membership
from fedkit_clients.edge.root import Root
from fedkit_clients.edge.runtime import EdgeClient
from fedkit_clients.edge.sessions import vouch
from fedkit_clients.edge.transport import Transport
from tests.federations import Replay
from tests.ports import reserved

NAMES = tuple(f"c{i}" for i in range(5))
ROUNDS = 2
OWN = '''
import numpy as np
from fedkit_clients.numpy_trainer import NumpyWorkload, Softmax


def make(*, seed: int):
    """Two Gaussians, five clients."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 2)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    return NumpyWorkload(Softmax(2, 2), {f"c{i}": (x[i::5], y[i::5]) for i in range(5)}, test=(x, y))
'''
TOML = f"""
workload = "own.py:make"
[rounds]
count = {ROUNDS}
quorum = 3
deadline = 1000.0
evaluate_on = "clients"
[train]
epochs = 1
batch = 5
lr = 0.3
[secagg]
mode = "lying_server"
width = 64
dropout = 0.35
"""


@pytest.fixture
def given(tmp_path: Path) -> Scenario:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "scenario.toml").write_text(TOML)
    return scenario.read(str(tmp_path / "scenario.toml"))


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugins are looked up once, disks are not waited for, and polls are short: threads must end."""
    known: dict[bytes, Job] = {}
    real = jobfile.decode
    monkeypatch.setattr(jobfile, "decode", lambda data: known.setdefault(data, real(data)))
    monkeypatch.setattr("os.fsync", lambda handle: None)
    monkeypatch.setattr(runtime, "PATIENCE", 2)
    monkeypatch.setattr(runtime, "LONGEST", 2)
    monkeypatch.setattr(runtime, "HASTE", 0.0)


class Killed(BaseException):
    """The process is gone."""


@dataclass
class Device:
    """A client in a thread, which is started again whenever it was killed."""

    name: str
    url: str
    given: Scenario
    folder: Path
    trust: Trust
    key: SigningKey = field(repr=False)
    lives: int = 0
    faults: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stopped = threading.Event()
        self.workload = build(self.given).workload
        self.thread = threading.Thread(target=self.go, name=self.name)

    def go(self) -> None:
        try:
            while not self.stopped.is_set():
                self.live()
        except BaseException as error:
            self.faults.append(error)
            raise

    def live(self) -> None:
        self.lives += 1
        membership = Membership(self.url, self.name, self.key, self.trust)
        transport = Transport(self.url, self.name, self.key, self.trust.server)
        who = lambda floors: vouch(membership, self.folder, floors)  # noqa: E731
        client = EdgeClient(transport, self.name, self.workload, Root(self.folder), vouch=who)
        try:
            while not self.stopped.is_set():
                try:
                    client.step()
                except (Unreachable, Refused, OSError):
                    self.stopped.wait(0.05)
        except Killed:
            return
        finally:
            client.close()


@dataclass
class Site:
    """An aggregator's folder and its devices."""

    folder: Path
    given: Scenario
    service: Service
    devices: Sequence[Device]

    def serve(self) -> Result:
        """Run to the end, or to the death of the server."""
        out = self.folder / "run"
        resume = (out / "scenario.toml").is_file()
        return serve(self.given, self.service, self.folder / "journal", out=out, resume=resume)


@contextmanager
def site(given: Scenario, folder: Path) -> Iterator[Site]:
    with reserved() as port:
        yield from lived(given, folder, port)


def lived(given: Scenario, folder: Path, port: int) -> Iterator[Site]:
    server = make_key(folder / "server")
    keys = {name: make_key(folder / name) for name in NAMES}
    trust = Trust.of_roster({name: key.public for name, key in keys.items()}, server.public)
    url = f"http://127.0.0.1:{port}"
    devices = [Device(name, url, given, folder / name, trust, keys[name]) for name in NAMES]
    for device in devices:
        device.thread.start()
    try:
        yield Site(folder, given, Service(trust, server, port=port, wait_for=5, patience=600.0), devices)
    finally:
        for device in devices:
            device.stopped.set()
        for device in devices:
            device.thread.join()
        assert not any(device.faults for device in devices)


def replayed(given: Scenario, rounds: Sequence[RoundRecord]) -> Result:
    """The same run in the clear, with those whose updates were counted."""
    members = {(r.round, "train"): counted(r) for r in rounds}
    members |= {(r.round + 1, "evaluate"): set(NAMES) for r in rounds} | {(0, "evaluate"): set(NAMES)}
    plain = replace(given, secagg=replace(given.secagg, mode="off"))
    built = build(plain)
    federation = Replay(built.workload, NAMES, lambda _, key: key.client in members[key.round, key.kind])
    return run_built(plain, replace(built, federation=federation))


def counted(record: RoundRecord) -> set[ClientId]:
    return {client for client, fate in record.fates.items() if fate.outcome is Outcome.counted}


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(one[n].tobytes() == other[n].tobytes() for n in one)


def test_a_served_secure_run_is_its_simulation(given: Scenario, tmp_path: Path) -> None:
    wanted = run_scenario(given)
    with site(given, tmp_path) as made:
        got = made.serve()
    assert [counted(record) for record in got.history.rounds] == [set(NAMES)] * ROUNDS
    assert same(got.model, wanted.model)
    assert got.summary["metrics"] == wanted.summary["metrics"]
    assert [r.secagg.identities for r in got.history.rounds if r.secagg] == ["roster"] * ROUNDS
    assert not list((tmp_path / "journal" / "uploads").iterdir())


def test_an_honest_server_asks_for_one_message_less(given: Scenario, tmp_path: Path) -> None:
    honest = replace(
        given,
        rounds=replace(given.rounds, count=1, evaluate_on="server"),
        secagg=replace(given.secagg, mode="honest_server"),
    )
    wanted = run_scenario(honest)
    with site(honest, tmp_path) as made:
        got = made.serve()
    (record,) = got.history.rounds
    assert record.secagg is not None
    assert (record.secagg.mode, record.secagg.identities) == ("honest_server", "roster")
    assert "agree" not in record.secagg.reached
    assert same(got.model, wanted.model)


@pytest.fixture
def server_measures(given: Scenario) -> Scenario:
    return replace(given, rounds=replace(given.rounds, evaluate_on="server"))


def kill_client(
    monkeypatch: pytest.MonkeyPatch, when: str, stage: Stage, victim: ClientId = "c1", round: int = 0
) -> list[Key]:
    """The victim dies once: before it answers at this stage, after that, or once the answer is uploaded."""
    dead: list[Key] = []
    answer, upload = Joined.answer, Transport.upload

    def meant(key: Key) -> bool:
        return (key.client, key.round, key.kind, key.stage) == (victim, round, "train", stage) and not dead

    def dies(self: Joined) -> None:
        found = next(filter(meant, self.talk._asked), None)
        if found is not None and when == "after":
            answer(self)
        if found is not None and when != "uploaded":
            dead.append(found)
            raise Killed
        answer(self)

    def uploads(self: Transport, key: Key, frame: bytes) -> None:
        upload(self, key, frame)
        if when == "uploaded" and meant(key):
            dead.append(key)
            raise Killed

    monkeypatch.setattr(Joined, "answer", dies)
    monkeypatch.setattr(Transport, "upload", uploads)
    return dead


IN_THE_SUM = {
    "before": (Stage.advertise, Stage.agree, Stage.unmask),
    "after": (Stage.agree, Stage.unmask),
    "uploaded": (Stage.mask, Stage.agree, Stage.unmask),
}


SHORT = {("before", Stage.share), ("uploaded", Stage.mask)}
"""These in every run of the tests, the others among the proofs."""


@pytest.mark.parametrize(
    ("when", "stage"),
    [
        pytest.param(when, stage, marks=[] if (when, stage) in SHORT else pytest.mark.prove)
        for when in IN_THE_SUM
        for stage in Stage
    ],
)
def test_a_client_that_is_killed_at_any_stage_is_in_the_sum_or_not(
    stage: Stage, when: str, server_measures: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = kill_client(monkeypatch, when, stage)
    with site(server_measures, tmp_path) as made:
        got = made.serve()
        lives = [device.lives for device in made.devices]
    assert (len(dead), lives) == (1, [1, 2, 1, 1, 1])
    rounds, everybody = got.history.rounds, set(NAMES)
    wanted = everybody if stage in IN_THE_SUM[when] else everybody - {"c1"}
    assert [counted(record) for record in rounds] == [wanted, everybody]
    assert rounds[0].secagg is not None
    assert rounds[0].secagg.attempts == 1
    assert same(got.model, replayed(server_measures, rounds).model)


def kill_server(
    monkeypatch: pytest.MonkeyPatch, stage: Stage, kind: str = "train", round: int = 0
) -> list[Stage]:
    """The server dies once, when it closes this stage."""
    dead, advance = list[Stage](), SecAggServer.advance

    def dies(self: SecAggServer) -> None:
        if (self.header.round, self.header.kind, self.stage) == (round, kind, stage) and not dead:
            dead.append(stage)
            raise Killed
        advance(self)

    monkeypatch.setattr(SecAggServer, "advance", dies)
    return dead


@pytest.mark.parametrize(
    "stage",
    [pytest.param(s, marks=[] if s in (Stage.mask, Stage.agree) else pytest.mark.prove) for s in Stage],
)
def test_a_server_that_is_killed_in_a_session_opens_another_only_while_no_client_has_signed(
    stage: Stage, server_measures: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = kill_server(monkeypatch, stage)
    with site(server_measures, tmp_path) as made:
        with pytest.raises(Killed):
            made.serve()
        got = made.serve()
    assert dead == [stage]
    rounds, everybody = got.history.rounds, set(NAMES)
    retried = stage in (Stage.advertise, Stage.share, Stage.mask)
    assert [counted(record) for record in rounds] == [everybody if retried else set(), everybody]
    assert [record.ok for record in rounds] == [retried, True]
    assert same(got.model, replayed(server_measures, rounds).model)


def test_a_sum_outlives_the_server_that_made_it(
    given: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the evaluation after the round, whose clients help to open no second sum of it."""
    dead = kill_server(monkeypatch, Stage.share, "evaluate", 1)
    with site(given, tmp_path) as made:
        with pytest.raises(Killed):
            made.serve()
        assert (tmp_path / "run" / "sum-train.bin").exists()
        got = made.serve()
    assert dead == [Stage.share]
    assert [counted(record) for record in got.history.rounds] == [set(NAMES)] * ROUNDS
    assert got.history.rounds[0].secagg is not None
    assert got.history.rounds[0].secagg.attempts == 1
    assert same(got.model, replayed(given, got.history.rounds).model)
    assert not list((tmp_path / "run").glob("sum-*.bin"))


@pytest.mark.parametrize("first", ["its own", pytest.param("another", marks=pytest.mark.prove)])
def test_of_two_messages_of_a_client_the_first_counts(
    first: str, server_measures: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, upload = list[str](), Transport.upload

    def lies(self: Transport, key: Key, frame: bytes) -> None:
        if (key.client, key.round, key.stage) != ("c1", 0, Stage.share):
            upload(self, key, frame)
            return
        other = wire.encode(FromClient(key, b"something else"))
        both = (frame, other) if first == "its own" else (other, frame)
        upload(self, key, both[0])
        try:
            upload(self, key, both[1])
        except Refused as error:
            refused.append(f"{error.status} {error.word}")

    monkeypatch.setattr(Transport, "upload", lies)
    with site(server_measures, tmp_path) as made:
        got = made.serve()
    # once its stage is over there is nothing left to send
    assert set(refused) <= {"409 other", "404 unknown"}
    rounds, everybody = got.history.rounds, set(NAMES)
    wanted = everybody if first == "its own" else everybody - {"c1"}
    assert [counted(record) for record in rounds] == [wanted, everybody]
    assert same(got.model, replayed(server_measures, rounds).model)


def test_who_contradicts_itself_over_the_network_is_in_no_session_again_and_leaves_proof(
    server_measures: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second, answer, upload = dict[Key, FromClient](), SecureClients.answer, Transport.upload
    told = threading.Event()

    def both(self: SecureClients, request: FromServer) -> FromClient:
        made, key = answer(self, request), request.key
        if (key.client, key.round, key.stage) == ("c1", 0, Stage.advertise):
            header = Header.from_bytes(Opening.from_bytes(request.body).header)
            other = replace(Advert.from_bytes(made.body), commitment=b"x" * 32)
            assert self._credentials is not None
            signature = self._credentials.identity("c1").key.sign(advert_text(header.digest, other))
            second[key] = FromClient(key, replace(other, signature=signature).to_bytes())
        return made

    def lies(self: Transport, key: Key, frame: bytes, begun: bool = False) -> None:
        if (key.client, key.round, key.stage) == ("c0", 0, Stage.advertise):
            told.wait(60.0)  # or the stage would be over
        upload(self, key, frame, begun)
        for _ in range(400 if key in second else 0):
            try:
                upload(self, key, wire.encode(second[key]))
                return told.set()
            except Refused as error:
                if error.word != "other":  # the session has not read the first one yet
                    raise
                time.sleep(0.05)
        return None

    monkeypatch.setattr(SecureClients, "answer", both)
    monkeypatch.setattr(Transport, "upload", lies)
    with site(server_measures, tmp_path) as made:
        got = made.serve()
    assert told.is_set()
    records = [record.secagg for record in got.history.rounds]
    assert records[0] is not None
    assert records[0].quarantined == {"c1": "two different advertise messages"}
    assert "c1" not in got.history.rounds[1].fates
    (path,) = (tmp_path / "run").glob("evidence-*.json")
    assert read_evidence(path).proves(made.service.trust)
