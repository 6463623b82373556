"""`fedkit report` and `fedkit compare`: pages from run folders."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import typer

from fedkit.cli.output import Format, FormatOption, echo_comparison, echo_json


def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
) -> None:
    """Write RUN/report.html again; works on a run that failed or is under way."""
    from fedkit.report import write_report

    typer.echo(str(write_report(folder)))


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders of runs.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The page to write, with a CSV beside it; default compare.html, -2 ..."),
    ] = None,
    output: FormatOption = Format.text,
) -> None:
    """Compare runs on one page and as CSV; runs that differ only in the seed count as one."""
    from fedkit.report import summary_rows, write_compare
    from fedkit.report.compare import WORKLOAD

    runs = [run for folder in folders for run in runs_in(folder)]
    page, sheet = write_compare(runs, out if out is not None else _fresh())
    rows = summary_rows(runs)
    if WORKLOAD in rows[0]:
        text = "fedkit: these runs have different workloads: their metrics cannot be compared"
        typer.echo(text, err=True)
    if output is Format.json:
        echo_json({"rows": rows, "html": str(page), "csv": str(sheet)})
        return
    echo_comparison(rows)
    typer.echo(f"\n{page}\n{sheet}")


def _fresh() -> Path:
    """compare.html, or compare-2.html ... where that is taken."""
    names = ("compare.html" if n == 1 else f"compare-{n}.html" for n in itertools.count(1))
    return next(page for page in map(Path, names) if not (page.exists() or page.with_suffix(".csv").exists()))


def runs_in(folder: Path) -> list[Path]:
    """The run folders that `folder` stands for: itself, or its direct sub-folders that are runs."""
    if (folder / "rounds.jsonl").is_file() or not folder.is_dir():
        return [folder]
    return sorted(child for child in folder.iterdir() if (child / "rounds.jsonl").is_file()) or [folder]
