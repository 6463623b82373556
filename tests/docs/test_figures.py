"""Figures that pages state are those that the code computes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedkit.secagg.estimate import aborted, cover
from fedkit.secagg.parameters import Mode, Policy, choose

DOCS = Path(__file__).parents[2] / "docs"
THREATS = (DOCS / "threat-model.md").read_text(encoding="utf-8")


def rows(title: str) -> list[list[str]]:
    """The cells of the table whose first line begins so."""
    below = THREATS[THREATS.index(f"| {title}") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in below]


def first(cell: str) -> int:
    """The number that a cell begins with."""
    found = re.match(r"\d+", cell)
    assert found
    return int(found[0])


def settled(n: int, mode: Mode = Mode.LYING_SERVER) -> Policy:
    return Policy(mode=mode).settled(n, n)


@pytest.mark.parametrize("cells", rows("n invited"), ids=lambda cells: cells[0])
def test_what_a_lying_server_can_bring_a_sum_down_to(cells: list[str]) -> None:
    n = int(cells[0])
    found, made = cover(n, settled(n)), choose(n, settled(n))
    assert cells[1] == f"{made.neighbours}, {made.threshold}"
    assert [first(cell) for cell in cells[2:]] == [found.smallest, found.helpers, found.hidden]


@pytest.mark.parametrize("cells", rows("n | `lying_server` k"), ids=lambda cells: cells[0])
def test_parameters_and_how_often_rounds_abort(cells: list[str]) -> None:
    n = int(cells[0])
    for cell, mode in zip(cells[1:3], (Mode.LYING_SERVER, Mode.HONEST_SERVER), strict=True):
        made = choose(n, settled(n, mode))
        assert cell == f"{made.neighbours}, {made.threshold}, {cover(n, settled(n, mode)).helpers}"
    made = choose(n, settled(n))
    for said, least in zip(
        cells[5].removeprefix("at most ").split(" / "), (settled(n).smallest, 3), strict=True
    ):
        number = float(said.removesuffix(" %")) / (100 if "%" in said else 1)
        assert aborted(made, 0.1, least) == pytest.approx(number, rel=0.05)


def test_the_tables_are_there() -> None:
    assert [cells[0] for cells in rows("n invited")] == ["3", "4", "5", "10", "20", "100", "1000"]
    assert len(rows("n | `lying_server` k")) == 7
