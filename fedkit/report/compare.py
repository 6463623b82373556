"""Several runs on one page, and as CSV."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from urllib.parse import quote

from fedkit.history import SecureRecord
from fedkit.report import groups as grouping
from fedkit.report.charts import Line, line_chart
from fedkit.report.data import Over, Run
from fedkit.report.groups import Group, Target, read_groups
from fedkit.report.markup import Html, el, join, section, table, tabs, write_page
from fedkit.report.page import OVER, WIDE, show_spent, x_axis
from fedkit.report.sheet import write_csv
from fedkit.report.units import (
    Axis,
    bytes_log_axis,
    number_axis,
    show_bytes,
    show_number,
    show_saving,
    show_seconds,
    times,
)

_COLOURS = 7
_NO_SPREAD = 5e-7  # not seen in six decimals
WORKLOAD = "workload"


def write_compare(folders: Sequence[Path], out: Path) -> tuple[Path, Path]:
    """Write the page `out` and, beside it, a CSV file of the same name; returns both paths.

    If `out` is a folder they are compare.html and compare.csv in it. Runs that differ only in the
    seed are drawn as one: mean and range. Raises ConfigError for a folder that is no run or has no
    finished round.
    """
    page = out / "compare.html" if out.is_dir() else out.with_suffix(".html")
    found = read_groups(folders)
    page.parent.mkdir(parents=True, exist_ok=True)
    sheet = page.with_suffix(".csv")
    write_csv(sheet, found)
    write_page(page, _title(found), *_body(found, page, sheet))
    return page, sheet


def summary_rows(folders: Sequence[Path]) -> list[dict[str, str]]:
    """One row of column -> text per group, for the terminal; the same columns in every row.

    There is a column WORKLOAD only if the runs have different ones.
    """
    found = read_groups(folders)
    target = grouping.find_target(found)
    return [_summary(group, found, target) for group in found]


def mixed(found: Sequence[Group]) -> bool:
    """Whether the runs have different workloads: then their figures say nothing about each other."""
    return len({run.setting("workload") for group in found for run in group.runs}) > 1


def _title(found: Sequence[Group]) -> str:
    runs = sum(len(group.runs) for group in found)
    workloads = dict.fromkeys(run.shown("workload") for group in found for run in group.runs)
    said = "1 run" if runs == 1 else f"{runs} runs"
    return f"{', '.join(filter(None, workloads)) or 'Comparison'}: {said} compared"


def _body(found: Sequence[Group], page: Path, sheet: Path) -> list[Html]:
    target = grouping.find_target(found)
    rows = [_summary(group, found, target) for group in found]
    head = ("", *(_swatch(i, group.name) for i, group in enumerate(found)))
    cells = [[key, *(row[key] for row in rows)] for key in list(rows[0])[1:]]
    note = "Mean over the seeds of a group ± standard deviation (n - 1)."
    if target is not None and not target.given:
        note += (
            f" The target is the best {target.metric} that every run reaches, {show_number(target.value)}."
        )
    if mixed(found):
        note += " The runs have different workloads: their metrics cannot be compared."
    link = el("p", "All rounds as ", el("a", "CSV", href=quote(sheet.name)), ".", class_="sub")
    panels = [(said.format(_time(found)), _curves(found, over)) for over, said in OVER]
    first = int(any(key.startswith("codec.") for key in found[0].differs))  # over bytes is the second
    drawn = "The line is the mean of a group's seeds, the band reaches from the lowest to the highest."
    return [
        el("header", el("h1", _title(found)), link),
        section("Results", table(head, cells, class_="figures"), note=note),
        section("Learning", tabs("over", panels, first), note=drawn),
        _differences(found),
        _runs(found, page),
    ]


def _summary(group: Group, found: Sequence[Group], target: Target | None) -> dict[str, str]:
    runs = group.runs
    row = {"group": group.name, "runs": group.spread}
    if mixed(found):
        row[WORKLOAD] = runs[0].shown("workload")
    for metric in grouping.metrics(found)[:3]:
        row[f"final {metric}"] = _spread([grouping.final(run, metric) for run in runs], show_number)
    main = next(iter(grouping.metrics(found)), "")
    if main:
        bests = [run.best(main) for run in runs]
        row[f"best {main}"] = _spread([best[1] if best else None for best in bests], show_number)
    if target is not None:
        row |= _target_cells(runs, target)
    row["bytes up"] = _spread([float(sum(run.bytes_up)) for run in runs], show_bytes)
    row["bytes down"] = _spread([float(sum(run.bytes_down)) for run in runs], show_bytes)
    row |= _savings(runs)
    row[_time(found)] = _spread([run.progress["seconds"][-1] for run in runs], show_seconds)
    row["clients missing"] = _spread([float(grouping.lost(run)) for run in runs], show_number)
    row["rounds failed"] = _spread([float(run.rounds_failed) for run in runs], show_number)
    if any(_secure(run) for other in found for run in other.runs):
        row |= _secret_cells([_secure(run) for run in runs])
    return row


def _secure(run: Run) -> list[SecureRecord]:
    """Its secret sums, of updates and of metrics."""
    return [secure for _, secure in run.secure]


def _secret_cells(runs: Sequence[Sequence[SecureRecord]]) -> dict[str, str]:
    """What secrecy cost: sessions aborted, clients lost by a stage, bytes beside the vectors."""
    figures: dict[str, tuple[Callable[[SecureRecord], int], Callable[[float], str]]] = {
        "sessions aborted": (lambda one: len(one.aborts), show_number),
        "lost in sessions": (lambda one: sum(map(len, one.lost.values())), show_number),
        "bytes of secrecy": (lambda one: one.bytes_up + one.bytes_down, show_bytes),
    }
    return {
        name: _spread([float(sum(map(count, made))) for made in runs if made], show)
        for name, (count, show) in figures.items()
    }


def _target_cells(runs: Sequence[Run], target: Target) -> dict[str, str]:
    shows: dict[Over, Callable[[float], str]] = {
        "rounds": show_number,
        "bytes": show_bytes,
        "seconds": show_seconds,
    }
    cells: dict[str, str] = {}
    for over, show in shows.items():
        name = {"rounds": "rounds", "bytes": "bytes up + down", "seconds": "time"}[over]
        spent = [grouping.to_target(run, target, over) for run in runs]
        cells[f"{name} to {target.metric} {show_number(target.value)}"] = _spread(spent, show)
    return cells


def _spread(values: Sequence[float | None], show: Callable[[float], str]) -> str:
    """Mean and standard deviation of those that are there, and how many are if some are missing."""
    there = [value for value in values if value is not None]
    if not there:
        return "never" if values else "–"
    some = f" ({len(there)} of {len(values)})" if len(there) < len(values) else ""
    mean = fmean(there)
    spread = stdev(there) if len(there) > 1 and all(map(math.isfinite, there)) else 0.0
    if show(spread) == show(0.0) or spread < _NO_SPREAD:
        return show(mean) + some
    if show is not show_number:
        return f"{show(mean)} ± {show(spread)}{some}"
    places = min(6, max(0, 1 - math.floor(math.log10(spread))))
    return f"{mean:,.{places}f} ± {spread:.{places}f}{some}"


def _savings(runs: Sequence[Run]) -> dict[str, str]:
    """How many times fewer bytes than with float32: up, down, and both together; how many more, if so."""
    records = [record for run in runs for record in run.rounds]
    up, plain_up = sum(r.bytes_up for r in records), sum(r.bytes_up_float32 for r in records)
    down, plain_down = sum(r.bytes_down for r in records), sum(r.bytes_down_float32 for r in records)
    ways = {"up": (up, plain_up), "down": (down, plain_down), "in all": (up + down, plain_up + plain_down)}
    known = all(size and plain for size, plain in ways.values())
    return {f"saving {way}": _saving(size, plain) if known else "–" for way, (size, plain) in ways.items()}


def _saving(size: int, plain: int) -> str:
    return times(plain / size) if plain >= size else f"none, {show_saving(size, plain)}"


def _time(found: Sequence[Group]) -> str:
    """What seconds are called: they are of one kind, or just time."""
    kinds = {run.time for group in found for run in group.runs}
    return kinds.pop() if len(kinds) == 1 else "time"


def _axis(found: Sequence[Group], over: Over) -> Axis:
    """The axis of what was spent; for bytes that differ much between groups a logarithmic one."""
    ends = [run.progress[over][-1] for group in found for run in group.runs]
    if over == "bytes" and max(ends) >= WIDE * min(ends) > 0:
        drawn = (run.values(m, over) for group in found for run in group.runs for m in run.metrics)
        starts = [min((x for x, _ in points if x), default=max(ends)) for points in drawn]
        return bytes_log_axis("bytes up and down", min(starts, default=min(ends)), max(ends))
    return x_axis(over, max(ends), _time(found))


def _curves(found: Sequence[Group], over: Over) -> Html:
    x = _axis(found, over)
    charts: list[Html] = []
    for metric in grouping.metrics(found):
        lines = [
            _line(group, index, metric, over, x.low if x.log else 0) for index, group in enumerate(found)
        ]
        lines = [line for line in lines if line.points]
        if lines:
            values = [v for line in lines for _, *rest in (*line.points, *line.band) for v in rest]
            charts.append(line_chart(metric, lines, x, number_axis(metric, values)))
    if not charts:
        return el("p", "These runs have no evaluations that can be drawn together.")
    return el("div", *charts, class_="charts")


def _line(group: Group, index: int, metric: str, over: Over, start: float) -> Line:
    """The group's curve from x = `start` on."""
    drawn = grouping.curve(group, metric, over)
    points = [(x, mean) for x, mean in zip(drawn.x, drawn.mean, strict=True) if x >= start]
    ranges = zip(drawn.x, drawn.low, drawn.high, strict=True)
    band = [point for point in ranges if point[0] >= start] if len(group.runs) > 1 else []
    heads = [show_spent(over, x) for x, _ in points]
    return Line(group.name, f"c{index % _COLOURS}", points, heads, dashed=index >= _COLOURS, band=band)


def _differences(found: Sequence[Group]) -> Html:
    keys = list(found[0].differs)
    if not keys:
        return section("Differences", note="The configs are the same but for the seed.")
    head = ("setting", *(_swatch(i, group.name) for i, group in enumerate(found)))
    rows = [[el("code", key), *(group.differs[key] for group in found)] for key in keys]
    return section(
        "Differences", table(head, rows, class_="figures"), note="Settings that are not the same everywhere."
    )


def _runs(found: Sequence[Group], page: Path) -> Html:
    main = next(iter(grouping.metrics(found)), "")
    rows = []
    for index, group in enumerate(found):
        for run in group.runs:
            value = grouping.final(run, main)
            rows.append(
                [
                    _link(run, page),
                    _swatch(index, group.name),
                    run.setting("seed"),
                    run.status,
                    str(len(run.rounds)),
                    "–" if value is None else show_number(value),
                    run.text("model_sha256")[:10],
                ]
            )
    head = ("run", "group", "seed", "status", "rounds", f"final {main}".strip(), "model")
    return section("Runs", table(head, rows, class_="figures"))


def _link(run: Run, page: Path) -> str:
    report = run.folder / "report.html"
    if not report.is_file():
        return str(run.folder)
    target = os.path.relpath(report.resolve(), page.parent.resolve())
    return el("a", str(run.folder), href=quote(Path(target).as_posix()))


def _swatch(index: int, name: str) -> Html:
    return join([el("i", class_=f"c{index % _COLOURS}"), name])
