"""How a run is written down and taken up again; does nothing for a run without a folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedkit.checkpoint import Checkpoint
from fedkit.errors import CheckpointError
from fedkit.federation import Plan
from fedkit.history import History, RoundRecord
from fedkit.job import Job
from fedkit.planning import plan_from_json, plan_to_json
from fedkit.runfolder import CHECKPOINT, RunFolder
from fedkit.summary import environment
from fedkit.tensors import Tensors
from fedkit.trainer import Workload


class Journal:
    """The durable side of one run. Order of writing within a round: plan, record, checkpoint."""

    def __init__(self, job: Job, seed: int, folder: RunFolder | None) -> None:
        self._job = job
        self._seed = seed
        self._folder = folder

    def describe(self, workload: Workload, scenario: str) -> None:
        """What is run, on what, with which label distribution."""
        if self._folder is None:
            return
        if scenario:
            self._folder.write_text("scenario.toml", scenario)
        self._folder.write_json("environment.json", environment())
        counts = getattr(workload, "label_counts", None)
        if counts is not None:
            table = {client: [int(n) for n in row] for client, row in counts().items()}
            width = max((len(row) for row in table.values()), default=0)
            names = [str(name) for name in getattr(workload, "class_names", range(width))]
            self._folder.write_json("population.json", {"classes": names, "clients": table})

    def plan(self, fresh: Plan) -> Plan:
        """The plan of that round that was written before a crash, else `fresh`, written now."""
        if self._folder is None:
            return fresh
        written = self._folder.read_json("plan.json")
        if written and written.get("round") == fresh.round and written.get("job") == self._job.id:
            return plan_from_json(written, self._seed)
        self._folder.write_json("plan.json", plan_to_json(fresh, self._job.id))
        return fresh

    def record(self, record: RoundRecord) -> None:
        """One more line of rounds.jsonl."""
        if self._folder is not None:
            self._folder.append_round(record)

    def checkpoint(self, point: Checkpoint) -> None:
        """Replace the checkpoint: from here on a restart begins after this round."""
        if self._folder is not None:
            point.save(self._folder.path / CHECKPOINT)

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
            return None
        point = Checkpoint.load(path)
        if point.job != self._job.id:
            raise CheckpointError(
                f"{self._folder.path} holds another run (job {point.job}, this one is {self._job.id}): "
                "strategy, codecs, model, grid, training settings and seed must be as when it was started"
            )
        return point, History(point.initial, self._folder.read_rounds(point.rounds))
