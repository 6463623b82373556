"""`fedkit report` and `fedkit compare`: pages from run folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedkit.cli.output import Format, FormatOption, echo_json, echo_table


def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
) -> None:
    """Write RUN/report.html again; works on a run that failed or is under way."""
    from fedkit.report import write_report

    typer.echo(str(write_report(folder)))


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders of runs.")],
    out: Annotated[Path, typer.Option("--out", help="The page to write; a CSV goes beside it.")] = Path(
        "compare.html"
    ),
    output: FormatOption = Format.text,
) -> None:
    """Compare runs on one page and as CSV; runs that differ only in the seed count as one."""
    from fedkit.report import summary_rows, write_compare

    runs = [run for folder in folders for run in runs_in(folder)]
    page, sheet = write_compare(runs, out)
    rows = summary_rows(runs)
    if output is Format.json:
        echo_json({"rows": rows, "html": str(page), "csv": str(sheet)})
        return
    echo_table(rows)
    typer.echo(f"\n{page}\n{sheet}")


def runs_in(folder: Path) -> list[Path]:
    """The run folders that `folder` stands for: itself, or its direct sub-folders that are runs."""
    if (folder / "rounds.jsonl").is_file() or not folder.is_dir():
        return [folder]
    return sorted(child for child in folder.iterdir() if (child / "rounds.jsonl").is_file()) or [folder]
