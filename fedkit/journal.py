"""How a run is written down and taken up again; does nothing for a run without a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from fedkit import fields
from fedkit.checkpoint import Checkpoint
from fedkit.errors import CheckpointError, ConfigError, WireError
from fedkit.federation import Plan
from fedkit.fingerprint import differences
from fedkit.history import History, RoundRecord
from fedkit.job import Job
from fedkit.messages import ClientId, Kind
from fedkit.planning import plan_from_json, plan_to_json
from fedkit.runfolder import CHECKPOINT, RunFolder, replace_file
from fedkit.secagg.evidence import Evidence
from fedkit.summary import environment
from fedkit.tensors import Tensors
from fedkit.trainer import Workload
from fedkit.usercode import called

QUARANTINED = "quarantined.json"


class Journal:
    """The durable side of one run. Order of writing within a round: plan, record, checkpoint.

    fingerprint: what must be as it was for the run to be continued.
    """

    def __init__(
        self, job: Job, seed: int, folder: RunFolder | None, fingerprint: Mapping[str, str] | None = None
    ) -> None:
        self._job = job
        self._seed = seed
        self._folder = folder
        self._fingerprint = fingerprint if fingerprint is not None else {}
        self._sessions: dict[str, tuple[str, int]] = {}

    def describe(self, workload: Workload, scenario: str) -> None:
        """What is run, on what, with which label distribution; the scenario first: it resumes the run."""
        if self._folder is None:
            return
        population = _population(workload)
        if scenario:
            self._folder.write_text("scenario.toml", scenario)
        self._folder.write_json("environment.json", environment())
        if population:
            self._folder.write_json("population.json", population)

    def plan(self, fresh: Plan, registered: Collection[ClientId] | None) -> Plan:
        """The plan of that round that was written before a crash, else `fresh`, written now."""
        if self._folder is None:
            return fresh
        written = self._folder.read_json("plan.json")
        if written is not None and not isinstance(written, dict):
            raise CheckpointError(f"{self._folder.path / 'plan.json'} is damaged: it is not an object")
        if written and written.get("round") == fresh.round and written.get("job") == self._job.id:
            try:
                return plan_from_json(written, self._seed, registered)
            except CheckpointError as error:
                raise CheckpointError(f"{self._folder.path}: {error}") from error
        self._folder.write_json("plan.json", plan_to_json(fresh, self._job.id))
        return fresh

    def session(self, kind: Kind, round: int) -> int:
        """The number of the next session of this round. It is written down first: clients that outlive a
        crash of ours join none whose number they have seen.
        """
        if self._folder is not None and not self._sessions:
            self._sessions = _sessions(self._folder.read_json("sessions.json"))
        of = f"{self._job.id} {round}"
        last, number = self._sessions.get(kind, ("", 0))
        self._sessions[kind] = (of, number + 1 if last == of else 0)
        if self._folder is not None:
            self._folder.write_json("sessions.json", self._sessions)
        return self._sessions[kind][1]

    def evidence(self, found: Evidence) -> None:
        """Proof that a client contradicted itself, in a file of its own."""
        if self._folder is not None:
            told = found.to_json()
            name = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
            self._folder.write_json(f"evidence-{name}.json", told)

    def quarantine(self, clients: Mapping[ClientId, str]) -> None:
        """Who is in no secure session of this job any more, and why."""
        if self._folder is not None:
            self._folder.write_json(QUARANTINED, {"job": self._job.id, "clients": dict(clients)})

    def quarantined(self) -> dict[ClientId, str]:
        """What `quarantine` wrote last."""
        found = self._folder.read_json(QUARANTINED) if self._folder is not None else None
        try:
            told = fields.mapping(found, "it") if found is not None else {"job": "", "clients": {}}
            fields.exactly(told, "job", "clients")
            clients = fields.mapping(told["clients"], "clients")
            why = {client: fields.text(what, client) for client, what in clients.items()}
            return why if told["job"] == self._job.id else {}
        except WireError as error:
            raise CheckpointError(f"{QUARANTINED} is damaged: {error}") from error

    def keep(self, kind: Kind, data: bytes) -> None:
        """The last secure sum of this kind, until the checkpoint that holds what came of it."""
        if self._folder is not None:
            replace_file(self._folder.path / f"sum-{kind}.bin", data)

    def kept(self, kind: Kind) -> bytes | None:
        """What `keep` has written since the last checkpoint."""
        path = self._folder.path / f"sum-{kind}.bin" if self._folder is not None else None
        return path.read_bytes() if path is not None and path.exists() else None

    def record(self, record: RoundRecord) -> None:
        """One more line of rounds.jsonl."""
        if self._folder is not None:
            self._folder.append_round(record)

    @property
    def durable(self) -> bool:
        """Whether anything is written down."""
        return self._folder is not None

    def checkpoint(self, point: Checkpoint) -> None:
        """Replace the checkpoint: from here on a restart begins after this round."""
        if self._folder is not None:
            replace(point, fingerprint=self._fingerprint).save(self._folder.path / CHECKPOINT)
            for path in self._folder.path.glob("sum-*.bin"):
                path.unlink(missing_ok=True)

    def model(self, name: str, model: Tensors) -> None:
        """Write a model."""
        if self._folder is not None:
            self._folder.write_model(name, model)

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json."""
        if self._folder is not None:
            self._folder.write_json("summary.json", summary)

    def resume(self) -> tuple[Checkpoint, History] | None:
        """Where the run stands; None if it died before its first checkpoint."""
        if self._folder is None:
            return None
        path = self._folder.path / CHECKPOINT
        if not path.exists():
            if self._folder.has_rounds():
                raise CheckpointError(
                    f"{path} is missing, but rounds were recorded beside it: put it back, or start a new run"
                )
            return None
        point = Checkpoint.load(path)
        odd = differences({"job": point.job, **point.fingerprint}, {"job": self._job.id, **self._fingerprint})
        if odd:
            raise CheckpointError(
                f"{self._folder.path} holds another run, which cannot be continued by this one: {odd}; all "
                "but the number of rounds must be as when it was started"
            )
        rounds = self._folder.read_rounds(point.rounds)
        return point, History(point.initial, rounds, point.initial_secagg)


def _sessions(found: object) -> dict[str, tuple[str, int]]:
    """The last session of each kind: job and round, and number."""
    try:
        given = fields.mapping(found, "sessions") if found is not None else {}
        pairs = {kind: fields.items(last, kind, 2) for kind, last in given.items()}
        return {kind: (fields.text(of, kind), fields.integer(n, kind)) for kind, (of, n) in pairs.items()}
    except WireError as error:
        raise CheckpointError(f"sessions.json is damaged: {error}") from error


def _population(workload: Workload) -> dict[str, object]:
    """Label counts per client, if the workload tells them. ConfigError if they are none."""
    counts = getattr(workload, "label_counts", None)
    if counts is None:
        return {}
    with called(f"workload {type(workload).__name__}.label_counts", ConfigError):
        table = {client: [int(n) for n in row] for client, row in counts().items()}
        width = max((len(row) for row in table.values()), default=0)
        names = [str(name) for name in getattr(workload, "class_names", range(width))]
    return {"classes": names, "clients": table}
