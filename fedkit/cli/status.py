"""`fedkit status`: where a served run stands, who takes part, what is under way."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from fedkit.cli.output import Format, FormatOption, echo_json, echo_table
from fedkit.cli.words import AGGREGATOR, AggregatorOption

_SHOWN = 10
"""Names of devices that wait for something."""


def status(
    directory: AggregatorOption = AGGREGATOR,
    output: FormatOption = Format.text,
) -> None:
    """Show rounds, clients with their links and versions, tasks, uploads under way, pending enrolments."""
    told = _told(directory)
    if output is Format.json:
        echo_json(told)
        return
    from fedkit.report.units import show_bytes

    echo_table([{"": name, str(directory): text} for name, text in _lines(told) if text])
    if told["clients"]:
        typer.echo()
        since = "ago" if told["running"] else "before it stopped"
        failing = told["run"]["failing"]
        echo_table([_client(row, since, failing) for row in told["clients"]])
    if told["uploads"]:
        typer.echo()
        parts = [(row, f"{show_bytes(row['held'])} of {show_bytes(row['bytes'])}") for row in told["uploads"]]
        echo_table(
            [{"upload": row["client"], "round": str(row["round"] + 1), "held": part} for row, part in parts]
        )


def _told(directory: Path) -> dict[str, Any]:
    """What a running aggregator answers; else what its journal and its run folder say."""
    from fedkit.aggregator.progress import of_folder
    from fedkit.aggregator.status import standing
    from fedkit.cli.operator import ask

    answer: dict[str, Any] | None = ask(directory, "GET", "/status")
    if answer is not None:
        return {"running": True, **answer}
    return {"running": False, **standing(directory / "journal"), "run": of_folder(directory / "run")}


def _lines(told: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    from fedkit.cli.progress import show_metrics
    from fedkit.report.units import show_bytes, show_seconds

    run, disk, traffic = told["run"], told["disk"], told["traffic"]
    state = f"running for {show_seconds(told['uptime'])}" if told["running"] else "not running"
    yield "aggregator", state + (f"; the run is over: {run['ended']}" if run["ended"] else "")
    yield "job", told["job"] or "none yet"
    failed = f", {run['failed']} failed" if run["failed"] else ""
    yield "rounds", f"{run['done']}" + (f" of {run['rounds']}" if run["rounds"] else "") + " done" + failed
    if now := run["now"]:
        yield (
            "now",
            f"round {now['round'] + 1}: {now['counted']} of {now['want']} counted, {now['invited']} invited",
        )
    if (last := run["last"]) and not last["ok"]:
        yield "last round", f"failed: {last['reason']}"
    if run["waiting"]:
        yield "waiting for", run["waiting"]
    if pause := told["pause"]:
        yield (
            "pause",
            f"the next round begins in {show_seconds(pause)}: mend or revoke who made the last one fail",
        )
    yield "metrics", show_metrics(run["metrics"])
    yield "outcomes", _counts(run["outcomes"])
    yield "tasks", _counts(told["tasks"])
    if places := told["places"]:
        yield "places", f"{places['taken']} of {places['room']} taken, {places['free']} free"
        if waiting := places["waiting"]:
            yield "without a place", f"{_names(waiting)}: revoke a device that is gone, or serve with more"
    if asking := told["enrolments"]:
        yield "enrolments", f"{len(asking)} pending: {_names(asking)}"
    if told["running"]:
        yield "connections", _counts(told["connections"])
        yield "protocol", "versions " + " and ".join(map(str, told["protocols"]))
    yield "traffic", f"{show_bytes(traffic['up'])} up, {show_bytes(traffic['down'])} down"
    kept = (f"{name} {show_bytes(disk[name])}" for name in ("journal", "blobs", "uploads", "free"))
    yield "disk", ", ".join(kept)


def _names(clients: Sequence[str]) -> str:
    return ", ".join(clients[:_SHOWN]) + ", ..." * (len(clients) > _SHOWN)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {word}" for word, n in counts.items() if n)


def _client(row: Mapping[str, Any], since: str, failing: Mapping[str, str]) -> dict[str, str]:
    """since: of what the time is that a client was last heard; the run's clock stands while nobody serves.
    failing: why clients did not do what they were asked; there is a column if any did not.
    """
    from fedkit.report.units import show_bytes, show_seconds

    link = row.get("uplink")
    told = {
        "client": row["client"],
        "last heard": "never" if row["seen"] is None else f"{show_seconds(row['seen'])} {since}",
        "uplink": f"{show_bytes(link)}/s" if link else "",
        "protocol": str(row["protocol"] or ""),
        "certificate": _certificate(row),
        "tasks": ", ".join(row["tasks"]),
    }
    return {**told, "failed": failing.get(row["client"], "")} if failing else told


def _certificate(row: Mapping[str, Any]) -> str:
    if row.get("revoked"):
        return "revoked"
    if (ends := row["certificate"]) is None:
        return ""
    word = "until" if ends > time.time() else "expired"
    return f"{word} {datetime.fromtimestamp(ends, UTC):%Y-%m-%d}"
