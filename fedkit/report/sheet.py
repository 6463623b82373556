"""All rounds of several runs as one CSV file, for plots of one's own."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from fedkit.history import Outcome, RoundRecord
from fedkit.report import groups as grouping
from fedkit.report.groups import Group


def write_csv(path: Path, found: Sequence[Group]) -> None:
    """One row per run and round; round 0 is the evaluation before the first."""
    names = grouping.metrics(found)
    trained = sorted({name for g in found for run in g.runs for r in run.rounds for name in r.train})
    bytes_columns = ("bytes_up", "bytes_down", "bytes_up_float32", "bytes_down_float32")
    head = [
        "run",
        "group",
        "seed",
        "round",
        "ok",
        *names,
        *(f"train_{name}" for name in trained),
        *bytes_columns,
    ]
    head += ["virtual_seconds", "wall_seconds", "invited", *(str(o) for o in Outcome), "carried"]
    with path.open("w", encoding="utf-8", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(head)
        for group in found:
            for run in group.runs:
                who = [str(run.folder), group.name, run.setting("seed")]
                if run.initial:
                    before = [run.initial.get(name, "") for name in names]
                    sheet.writerow(
                        [
                            *who,
                            0,
                            "",
                            *before,
                            *[""] * len(trained),
                            *[0] * len(bytes_columns),
                            0.0,
                            0.0,
                            *[0] * (len(Outcome) + 2),
                        ]
                    )
                for record, spent in zip(run.rounds, run.progress["seconds"][1:], strict=True):
                    sheet.writerow([*who, *_csv_cells(record, names, trained, spent)])


def _csv_cells(
    record: RoundRecord, names: Sequence[str], trained: Sequence[str], spent: float
) -> list[str | int | float]:
    return [
        record.round + 1,
        int(record.ok),
        *(record.metrics.get(name, "") for name in names),
        *(record.train.get(name, "") for name in trained),
        record.bytes_up,
        record.bytes_down,
        record.bytes_up_float32,
        record.bytes_down_float32,
        spent,
        record.wall_seconds,
        len(record.fates),
        *(record.count(outcome) for outcome in Outcome),
        record.carried_in,
    ]
