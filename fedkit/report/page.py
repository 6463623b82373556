"""report.html: one run on one page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from fedkit.history import Outcome
from fedkit.report.charts import Line, line_chart
from fedkit.report.clients import missing_section, participation_chart, rounds_section
from fedkit.report.codecs import codec_facts
from fedkit.report.data import Over, Run
from fedkit.report.labels import labels_section
from fedkit.report.markup import Html, el, join, section, table, tabs, write_page
from fedkit.report.reading import read_run
from fedkit.report.secure import secure_section
from fedkit.report.units import (
    Axis,
    bytes_axis,
    bytes_log_axis,
    count_axis,
    number_axis,
    seconds_axis,
    show_bytes,
    show_number,
    show_saving,
    show_seconds,
)

OVER: Sequence[tuple[Over, str]] = (
    ("rounds", "Over rounds"),
    ("bytes", "Over bytes"),
    ("seconds", "Over {}"),
)


WIDE = 10.0
"""Bytes that differ by this factor are drawn on a logarithmic scale."""


def write_report(folder: Path) -> Path:
    """Write report.html into a run folder: one file, no network; the run may still be going on.

    Raises ConfigError if the folder is no run or no round has ended yet.
    """
    run = read_run(folder)
    title = " · ".join(filter(None, (run.shown("workload"), run.shown("strategy.name"), run.name)))
    curves = [(said.format(run.time), _curves(run, over)) for over, said in OVER]
    sections = [
        _head(run),
        _tiles(run),
        section("Learning", tabs("over", curves)),
        _rounds_and_traffic(run),
        missing_section(run),
        rounds_section(run),
    ]
    if (secured := secure_section(run)) is not None:
        sections.insert(-1, secured)
    if run.labels is not None:
        sections.append(labels_section(run.labels))
    return write_page(folder / "report.html", title, *sections, _config(run), _environment(run))


def x_axis(over: Over, high: float, time: str) -> Axis:
    """The axis of what was spent. time: what seconds are called."""
    if over == "bytes":
        return bytes_axis("bytes up and down", high)
    if over == "seconds":
        return seconds_axis(time, high)
    return count_axis("rounds", high, ends_on_tick=False)


def show_spent(over: Over, value: float) -> str:
    """What was spent, as text.

    >>> show_spent("rounds", 3.0), show_spent("bytes", 2000.0)
    ('round 3', '2.00 kB')
    """
    if over == "rounds":
        return "before round 1" if value == 0 else f"round {value:.0f}"
    return show_bytes(value) if over == "bytes" else show_seconds(value)


def _head(run: Run) -> Html:
    workload, strategy = run.shown("workload") or run.name, run.shown("strategy.name")
    top = el("div", el("h1", workload), el("span", run.status, class_=f"pill {_pill(run)}"), class_="top")
    facts = [f"strategy {strategy}" if strategy else "", f"seed {run.setting('seed')}", run.name]
    facts.insert(0, str(run.config.get("description", "")))
    said = el("p", " · ".join(fact for fact in facts if fact), class_="sub")
    return el("header", top, said, *_banner(run))


def _banner(run: Run) -> list[Html]:
    done, planned = len(run.rounds), run.config.get("rounds.count", "?")
    if run.status == "failed":
        return [el("div", f"The run failed: {run.text('error') or 'see its output'}", class_="banner failed")]
    if run.status == "running":
        said = f"{done} of {planned} rounds: the run is going on, or was cut off; --resume continues it."
        return [el("div", said, class_="banner running")]
    if run.text("stopped"):
        said = f"Stopped after {done} of {planned} rounds: {run.text('stopped')}"
        return [el("div", said, class_="banner running")]
    return []


def _pill(run: Run) -> str:
    return run.status if run.status in ("done", "failed") else "running"


def _tiles(run: Run) -> Html:
    up, down = sum(run.bytes_up), sum(run.bytes_down)
    failed = run.rounds_failed
    invited = sum(len(r.fates) for r in run.rounds)
    wall = run.summary.get("wall_seconds")
    seconds = float(wall) if isinstance(wall, int | float) else sum(r.wall_seconds for r in run.rounds)
    counted, lost, late = (run.total(o) for o in (Outcome.counted, Outcome.lost, Outcome.late))
    carried = sum(record.carried_in for record in run.rounds)
    said = f"{late:,} late" + (f" ({carried:,} carried in)" if carried else "")
    refused = run.total(Outcome.failed) + run.total(Outcome.refused)
    digest = run.text("model_sha256")
    tiles = [
        *_metric_tiles(run),
        ("Rounds", f"{len(run.rounds):,}", f"{failed} failed" if failed else "none failed"),
        ("Updates counted", f"{counted:,}", f"of {invited:,} invitations"),
        ("Clients lost", f"{lost:,}", f"{said}, {refused:,} failed or refused"),
        ("Sent up", show_bytes(up), show_saving(up, sum(run.bytes_up_float32))),
        ("Sent down", show_bytes(down), show_saving(down, sum(run.bytes_down_float32))),
        ("Virtual time", show_seconds(run.progress["seconds"][-1]), "on the federation's clock"),
        ("Wall time", show_seconds(seconds), "on this machine"),
    ]
    if digest:
        tiles.append(("Model", digest[:8], _parameters(run) or "SHA-256, first 8 digits"))
    cells = [_tile(*tile, main=index == 0) for index, tile in enumerate(tiles)]
    return el("div", *cells, class_="tiles")


def _metric_tiles(run: Run) -> list[tuple[str, str, str]]:
    tiles: list[tuple[str, str, str]] = []
    for metric in run.metrics[:3]:
        points = run.values(metric, "rounds")
        best = run.best(metric)
        said = f"best {show_number(best[1])} at round {best[0]:.0f}" if best else "never finite"
        tiles.append((f"Final {metric}", show_number(points[-1][1]), said))
    return tiles


def _parameters(run: Run) -> str:
    count = run.summary.get("parameters")
    return f"{count:,} parameters; SHA-256, first digits" if isinstance(count, int) else ""


def _tile(name: str, value: str, note: str, main: bool = False) -> Html:
    kind = {"class_": "main"} if main else {}
    return el("div", el("span", name), el("b", value), el("span", note), **kind)


def _curves(run: Run, over: Over) -> Html:
    """One chart per metric: evaluation, and beside it the clients' training metric of that name."""
    failed = [x for x, r in zip(run.progress[over][1:], run.rounds, strict=True) if not r.ok]
    x = x_axis(over, run.progress[over][-1], run.time)
    charts = []
    for metric in run.metrics:
        lines = [_line(run, metric, over, train) for train in (False, True)]
        lines = [line for line in lines if line.points]
        y = number_axis(metric, (value for line in lines for _, value in line.points))
        charts.append(line_chart(metric, lines, x, y, failed))
    return el("div", *charts, class_="charts") if charts else el("p", "No metrics were recorded.")


def _line(run: Run, metric: str, over: Over, train: bool) -> Line:
    points = run.series(metric, over, train)
    rounds = run.series(metric, "rounds", train)
    heads = [
        show_spent("rounds", n) + ("" if over == "rounds" else f", {show_spent(over, at)}")
        for (n, _), (at, _) in zip(rounds, points, strict=True)
    ]
    name = "clients, while training" if train else "evaluation"
    return Line(name, "c4" if train else "c0", points, heads, dashed=train)


def _rounds_and_traffic(run: Run) -> Html:
    total = sum(run.bytes_up) + sum(run.bytes_down)
    saved = show_saving(total, sum(run.bytes_up_float32) + sum(run.bytes_down_float32))
    note = f"{show_bytes(total)} were sent in all" + (f", {saved}. " if saved else ". ")
    note += "A round fails when too few replies were counted; the model is then left as it was."
    note += "".join(f" Codec {fact}." for fact in codec_facts(run.codec))
    charts = el("div", participation_chart(run), _traffic_chart(run), class_="charts")
    return section("Participation and traffic", charts, note=note)


def _traffic_chart(run: Run) -> Html:
    """Bytes so far, both ways, and as float32; logarithmic where they differ much."""
    rounds = run.progress["rounds"][1:]
    heads = [show_spent("rounds", at) for at in rounds]
    lines = []
    for name, colour, sizes in (
        ("down", "c2", run.bytes_down),
        ("up", "c0", run.bytes_up),
        ("down as float32", "c2", run.bytes_down_float32),
        ("up as float32", "c0", run.bytes_up_float32),
    ):
        points = [(at, float(total)) for at, total in zip(rounds, accumulate(sizes), strict=True)]
        if points[-1][1] or "float32" not in name:
            lines.append(Line(name, colour, points, heads, dashed="float32" in name, show=show_bytes))
    y = _traffic_axis(
        [line.points[-1][1] for line in lines], min(y for line in lines for _, y in line.points)
    )
    x = count_axis("rounds", rounds[-1], ends_on_tick=False)
    return line_chart("Traffic so far" + y.label.removeprefix("bytes"), lines, x, y)


def _traffic_axis(ends: Sequence[float], least: float) -> Axis:
    wide = least > 0 and max(ends) >= WIDE * min(ends)
    return bytes_log_axis("bytes", least, max(ends)) if wide else bytes_axis("bytes", max(ends))


def _config(run: Run) -> Html:
    note = "scenario.toml with every default filled in. Run this file to run the same again."
    return section("Config", el("pre", run.config_text.strip() or "no scenario.toml"), note=note)


def _environment(run: Run) -> Html:
    rows = [(key, value) for key, value in run.environment.items() if key != "command"]
    digest = run.text("model_sha256")
    rows += [("model SHA-256", digest)] if digest else []
    parts = [table(("", ""), rows, class_="keys")] if rows else []
    if run.environment.get("command"):
        copy = el("div", el("pre", run.environment["command"], class_="command"), class_="copy")
        parts = [el("p", "The command of this run:"), copy, *parts]
    if not math.isfinite(sum(v for r in run.rounds for v in r.metrics.values())):
        parts.append(el("p", "Some metrics are not finite; curves have gaps there.", class_="note"))
    return section("Environment", join(parts))
