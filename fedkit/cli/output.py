"""What all commands share: the output format, tables, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
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
        table.add_column(Text(column), overflow="fold")
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


def echo_comparison(rows: Sequence[Mapping[str, str]]) -> None:
    """Rows of column -> text, the first column naming the row, with a line for each column.

    On a terminal, rows that do not fit beside each other go below each other. What is the same in all
    rows is told in one line at the end.
    """
    name, *columns = rows[0]
    same = [key for key in columns if len(rows) > 1 and len({row[key] for row in rows}) == 1]
    told = [key for key in columns if key not in same]
    for number, part in enumerate(_beside(rows, name, told)):
        if number:
            typer.echo()
        echo_table([{"": key} | {row[name]: row[key] for row in part} for key in told])
    if same:
        _echo_text("\nthe same in all: " + ", ".join(f"{key} {rows[0][key]}" for key in same))


def _echo_text(text: str) -> None:
    """A sentence, wrapped at words where stdout is a terminal."""
    from rich.console import Console

    console = Console()
    if console.is_terminal:
        console.print(text, highlight=False, markup=False, emoji=False)
    else:
        typer.echo(text)


def _beside(
    rows: Sequence[Mapping[str, str]], name: str, told: Sequence[str]
) -> Iterator[Sequence[Mapping[str, str]]]:
    """The rows in parts that fit the width of the terminal; all at once where there is none."""
    from rich.console import Console

    console = Console()
    room = console.width - max(map(len, told), default=0) if console.is_terminal else 10_000
    part: list[Mapping[str, str]] = []
    used = 0
    for row in rows:
        width = 2 + max(len(row[key]) for key in (name, *told))
        if part and used + width > room:
            yield part
            part, used = [], 0
        part.append(row)
        used += width
    yield part
