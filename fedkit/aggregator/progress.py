"""Where the run stands: an observer, for those who ask while it goes on."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from fedkit.events import Replied, RoundEnded, RoundStarted, RunEnded, RunStarted
from fedkit.history import Fate, Outcome, RoundRecord
from fedkit.messages import ClientId
from fedkit.runfolder import ROUNDS

log = logging.getLogger("fedkit.aggregator")
LONGEST = 300
"""Characters that are kept of why a client did not do its task."""


class Progress:
    """Told of every event; `told` is what `fedkit status` shows."""

    def __init__(self) -> None:
        self._rounds, self._done, self._failed = 0, 0, 0
        self._last: RoundRecord | None = None
        self._metrics: dict[str, float] = {}
        self._now: dict[str, int] | None = None
        self.outcomes: Counter[str] = Counter()
        self._ended = ""
        self._waiting = ""
        self._failing: dict[ClientId, str] = {}

    def waits(self, what: str) -> None:
        """What the run waits for from now on; empty: it goes on."""
        self._waiting = what

    def run_started(self, event: RunStarted) -> None:
        self._rounds, self._ended = event.rounds, ""
        self._done = self._failed = 0
        self.outcomes.clear()
        self._failing.clear()
        self._metrics = dict(event.history.initial)
        for record in event.history.rounds:
            self.add(record)
        log.info("run of job %s: %d of %d rounds are done", event.job.id, self._done, event.rounds)

    def round_started(self, event: RoundStarted) -> None:
        plan = event.plan
        self._now = {"round": plan.round, "invited": len(plan.cohort), "want": plan.want, "counted": 0}
        log.info("round %d: %d clients are asked", plan.round + 1, len(plan.cohort), extra=self._now)

    def replied(self, event: Replied) -> None:
        if self._now is not None:
            self._now = {**self._now, "counted": event.counted}
        self._heed(event.round, event.client, event.fate)
        told = {"round": event.round, "client": event.client, "outcome": event.fate.outcome.value}
        log.info("round %d: client %r %s", event.round + 1, event.client, told["outcome"], extra=told)

    def round_ended(self, event: RoundEnded) -> None:
        record = event.record
        self.add(record)
        self._now = None
        told = {"round": record.round, "ok": record.ok, "reason": record.reason, "metrics": record.metrics}
        log.info("round %d: %s", record.round + 1, "done" if record.ok else record.reason, extra=told)

    def run_ended(self, event: RunEnded) -> None:
        self._ended = event.stopped or "done"
        log.info("the run is over: %s", self._ended)

    def run_failed(self, why: str) -> None:
        """The run is over by an error."""
        self._ended, self._now, self._waiting = f"failed: {why}", None, ""
        log.error("the run is over: %s", self._ended)

    def told(self) -> dict[str, Any]:
        """As JSON. `now`: the round under way. `waiting`: for what. `failing`: clients whose last answer was
        not what they were asked for, and why. `ended`: why the run is over; empty while it is not.
        """
        last = self._last
        return {
            "rounds": self._rounds,
            "done": self._done,
            "failed": self._failed,
            "now": self._now,
            "last": None if last is None else {"round": last.round, "ok": last.ok, "reason": last.reason},
            "metrics": dict(self._metrics),
            "outcomes": dict(sorted(self.outcomes.items())),
            "failing": dict(sorted(self._failing.items())),
            "ended": self._ended,
            "waiting": self._waiting,
        }

    def add(self, record: RoundRecord) -> None:
        """A round is over."""
        self._done, self._failed = self._done + 1, self._failed + (not record.ok)
        self._last = record
        self._metrics = dict(record.metrics) or self._metrics
        self.outcomes.update(fate.outcome.value for fate in record.fates.values())
        for client, fate in record.fates.items():
            self._heed(record.round, client, fate)

    def _heed(self, round: int, client: ClientId, fate: Fate) -> None:
        if fate.outcome in (Outcome.failed, Outcome.refused):
            self._failing[client] = f"round {round + 1}: {fate.why}"[:LONGEST]
        elif fate.outcome is Outcome.counted:
            self._failing.pop(client, None)


def of_folder(folder: Path) -> dict[str, Any]:
    """What `told` would say of the run in a folder that nobody works in; CheckpointError if it is damaged."""
    progress, path = Progress(), folder / ROUNDS
    for line in path.read_text("utf-8").splitlines(keepends=True) if path.exists() else ():
        if line.endswith("\n"):  # or it was torn
            progress.add(RoundRecord.from_json(line))
    return progress.told()
