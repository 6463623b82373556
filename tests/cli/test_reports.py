"""`fedkit report` and `fedkit compare`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Command = Callable[..., Any]


def test_report_writes_the_page_again(folder: Path, fedkit: Command) -> None:
    fedkit("run", "toy.toml", "--out", "r")
    (folder / "r/report.html").unlink()
    assert fedkit("report", "r").stdout.strip() == "r/report.html"
    assert (folder / "r/report.html").is_file()


def test_compare_groups_seeds_and_writes_page_and_csv(folder: Path, fedkit: Command) -> None:
    fedkit("run", "toy.toml", "--seeds", "2", "--out", "avg")
    fedkit("run", "toy.toml", "strategy.name=fedprox", "--out", "prox")
    result = fedkit("compare", "avg", "prox", "--out", "page.html")
    assert result.exit_code == 0
    assert (folder / "page.html").is_file()
    assert (folder / "page.csv").is_file()
    answer = json.loads(fedkit("compare", "avg", "prox", "--format", "json").stdout)
    assert [row["runs"] for row in answer["rows"]] == ["2 seeds", "seed 0"]


def test_what_is_not_a_run_is_refused(folder: Path, fedkit: Command) -> None:
    for words in (("report", "own"), ("compare", "."), ("compare", "nowhere")):
        result = fedkit(*words)
        assert result.exit_code == 2
        assert result.stderr.startswith("fedkit: ")
