"""`fedkit run`: a scenario into a run folder."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedkit.cli.door import last_event
from fedkit.cli.output import Format, FormatOption, echo_comparison, echo_json, echo_table
from fedkit.cli.words import OverridesArgument
from fedkit.errors import many
from fedkit.oneline import told

if TYPE_CHECKING:
    from rich.console import Console

    from fedkit.cli.folders import Launch
    from fedkit.rounds import Result


def run(
    scenario: Annotated[
        str,
        typer.Argument(
            help="A shipped name (`fedkit scenarios`), a TOML file, or with --resume a run folder."
        ),
    ],
    overrides: OverridesArgument = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The run folder; default runs/<scenario>-<number>.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder.")] = False,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Run so many seeds and compare them.")] = 1,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard events into the run folder.")
    ] = False,
    output: FormatOption = Format.text,
) -> None:
    """Run a scenario and write its report."""
    from fedkit.cli import folders

    with last_event(output):
        folder, launches = folders.plan(scenario, overrides or [], out, resume, seeds)
        again = shlex.join(["fedkit", "run", str(folder), "--resume"])
        if seeds > 1:
            words = [scenario, *(overrides or []), "--seeds", str(seeds), "--out", str(folder), "--resume"]
            again = shlex.join(["fedkit", "run", *words])
        try:
            summaries = [one(launch, output, tensorboard, seeds > 1) for launch in launches]
        except KeyboardInterrupt:
            typer.echo(f"\nfedkit: interrupted; continue with: {again}", err=True)
            raise typer.Exit(130) from None
        if seeds > 1:
            _compare(folder, launches, summaries, output)


def one(
    launch: Launch,
    output: Format,
    tensorboard: bool = False,
    several: bool = False,
    go: Callable[..., Result] | None = None,
    clock: str = "virtual",
    console: Console | None = None,
) -> Mapping[str, Any]:
    """Run one scenario, write its report, say how it went; returns the summary.

    go: takes what `run_scenario` takes, and is called in its place. clock: whose seconds are shown, "virtual"
    or "wall". console: by which warnings are shown already.
    """
    from fedkit.cli.progress import Began
    from fedkit.launch import run_scenario

    name, began = launch.folder.name, Began(launch.folder, launch.resume)
    try:
        with _watching(name, output, several, clock, console) as observers:
            observers.insert(0, began)
            if tensorboard:
                from fedkit.observers import TensorBoard

                observers.append(TensorBoard(launch.folder / "tensorboard"))
            result = (go or run_scenario)(
                launch.scenario, out=launch.folder, resume=launch.resume, observers=observers
            )
    except (Exception, SystemExit):
        if began.folder_is_ours and (page := _report(launch.folder)):
            typer.echo(f"report: {page}", err=True)
        raise
    page = _report(launch.folder)
    summary = {**result.summary, "folder": str(launch.folder), "report": page or None}
    if output is Format.text:
        _show(summary)
    elif not several:
        echo_json({"event": "summary", **summary})
    return summary


def _report(folder: Path) -> str:
    """Write the report; its path, or "" after a line that says why not: it changes no run's outcome."""
    from fedkit.report import write_report

    if not (folder / "rounds.jsonl").is_file():
        return ""
    try:
        return str(write_report(folder))
    except Exception as error:  # noqa: BLE001 - a page must not cost the run its own error or success
        again = shlex.join(["fedkit", "report", str(folder)])
        typer.echo(f"fedkit: the report could not be written: {told(error)}; then: {again}", err=True)
        return ""


@contextmanager
def warnings_shown() -> Iterator[Console]:
    """What is logged as a warning goes to stderr by this console."""
    from rich.console import Console
    from rich.logging import RichHandler

    logger = logging.getLogger("fedkit")
    console = Console(stderr=True)
    handler = RichHandler(logging.WARNING, console=console, show_time=False, show_path=False)
    logger.addHandler(handler)
    try:
        yield console
    finally:
        logger.removeHandler(handler)


@contextmanager
def _watching(
    name: str, output: Format, several: bool, clock: str, known: Console | None
) -> Iterator[list[object]]:
    """The observers of the output format; logged failures go to stderr beside them."""
    from fedkit.cli.progress import Bar, JsonLines, Lines

    with nullcontext(known) if known is not None else warnings_shown() as console:
        bar = output is Format.text and console.is_terminal
        shown = Bar(console, name, clock) if bar else Lines(console, name, clock)
        try:
            yield [JsonLines(name if several else "") if output is Format.json else shown]
        finally:
            shown.close()


def _show(summary: Mapping[str, Any]) -> None:
    """The summary as a table, and where the report is."""
    from fedkit.cli.progress import show_metrics
    from fedkit.history import Outcome
    from fedkit.report.codecs import codec_facts
    from fedkit.report.units import show_seconds

    best, outcomes = summary["best"], [o.value for o in Outcome]
    up, down = (_traffic(summary, way) for way in ("up", "down"))
    virtual, wall = (show_seconds(summary[f"{clock}_seconds"]) for clock in ("virtual", "wall"))
    clients = {word: summary[f"clients_{word}"] for word in ("invited", *outcomes)}
    carried = {"late": f" ({summary['clients_carried']} carried in)"} if summary["clients_carried"] else {}
    rows = {
        "metrics": show_metrics(summary["metrics"]),
        "best": f"{best['metric']} {best['value']:.4g} after {best['round']} rounds" if best else "",
        "rounds": f"{summary['rounds']}, {summary['rounds_failed']} failed",
        "stopped": summary["stopped"],
        "bytes": f"{up}, {down}",
        "codec": "; ".join(codec_facts(summary.get("codec") or {})),
        "clients": ", ".join(f"{n} {word}{carried.get(word, '')}" for word, n in clients.items() if n),
        "secagg": _secure(summary.get("secagg")),
        "time": wall if summary["clock"] == "wall" else f"{virtual} virtual, {wall} here",
        "model": f"{summary['parameters']} parameters, sha256 {summary['model_sha256'][:16]}",
    }
    echo_table([{"": key, summary["folder"]: text} for key, text in rows.items() if text])
    if summary["report"]:
        typer.echo(f"\nreport: {summary['report']}")


def _secure(told: Mapping[str, Any] | None) -> str:
    """What secure aggregation came to, on one line; empty without."""
    from fedkit.report.units import show_bytes

    if told is None:
        return ""
    lost = ", ".join(f"{n} at {stage}" for stage, n in told["lost"].items())
    parts = [
        told["mode"] + ("" if told["identities"] != "none" else " without identities"),
        many(told["sessions"], "session") + (f", {told['aborted']} aborted" if told["aborted"] else ""),
        f"lost {lost}" if lost else "nobody lost",
        f"{show_bytes(told['bytes_up'])} up and {show_bytes(told['bytes_down'])} down beside the vectors",
    ]
    if told["verified"] is not None:
        wrong = f", {told['not_verified']} were NOT" if told["not_verified"] else ""
        equal = many(told["verified"], "sum")
        parts.append(f"{equal} equal to the plain {'one' if told['verified'] == 1 else 'ones'}{wrong}")
    return "; ".join(parts)


def _traffic(summary: Mapping[str, Any], way: str) -> str:
    from fedkit.report.units import show_bytes, show_saving

    size, plain = summary[f"bytes_{way}"], summary[f"bytes_{way}_float32"]
    saved = f" ({show_saving(size, plain)})" if plain else ""
    return f"{show_bytes(size)} {way}{saved}"


def _compare(
    folder: Path, launches: Sequence[Launch], summaries: Sequence[Mapping[str, Any]], output: Format
) -> None:
    """The seeds of one scenario on one page."""
    from fedkit.report import summary_rows, write_compare

    runs = [launch.folder for launch in launches]
    page, sheet = write_compare(runs, folder / "compare.html")
    if output is Format.json:
        files = {"html": str(page), "csv": str(sheet)}
        echo_json({"event": "summary", "folder": str(folder), **files, "runs": summaries})
        return
    echo_comparison(summary_rows(runs))
    typer.echo(f"\ncomparison: {page}\n            {sheet}")
