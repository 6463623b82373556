"""What all commands share: the output format, tables, JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated

import typer

from fedkit.history import finite


class Format(StrEnum):
    """How a command answers."""

    text = "text"
    json = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="text for people, json for programs.")]


def echo_json(value: object) -> None:
    """One line of JSON on stdout, flushed."""
    typer.echo(json.dumps(finite(value), default=str))


def echo_table(rows: Sequence[Mapping[str, str]]) -> None:
    """Rows of column -> text as a table; nothing is cut off when stdout is not a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in rows[0] if rows else ():
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row.values()))
    console = Console()
    if console.is_terminal:
        console.print(table)
        return
    plain = Console(width=10_000)
    with plain.capture() as captured:
        plain.print(table)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))
