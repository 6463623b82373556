"""`fedkit report` and `fedkit compare`."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedkit.cli.output import echo_comparison

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


def test_compare_does_not_overwrite_a_page_that_is_there(folder: Path, fedkit: Command) -> None:
    fedkit("run", "toy.toml", "--out", "r")
    for name in ("compare", "compare-2", "compare-3"):
        assert fedkit("compare", "r").stdout.endswith(f"{name}.html\n{name}.csv\n")
    (folder / "compare.html").write_text("mine")
    fedkit("compare", "r")
    assert (folder / "compare.html").read_text() == "mine"
    fedkit("compare", "r", "--out", "compare.html")
    assert (folder / "compare.html").read_text() != "mine"


def test_compare_warns_when_the_workloads_differ(folder: Path, fedkit: Command) -> None:
    fedkit("run", "toy.toml", "--out", "a")
    (folder / "other.py").write_text((folder / "own.py").read_text())
    fedkit("run", "toy.toml", "workload=other.py:make", "--out", "b")
    assert "different workloads" not in fedkit("compare", "a").stderr
    result = fedkit("compare", "a", "b")
    assert "these runs have different workloads" in result.stderr
    assert "own.py:make" in result.stdout
    assert str(folder) not in result.stdout
    assert "different workloads" in (folder / "compare-2.html").read_text()


def _rows(count: int) -> list[dict[str, str]]:
    return [
        {"group": f"group-{i}", "final accuracy": f"0.{i}000 ± 0.012", "rounds failed": "0"}
        for i in range(count)
    ]


def test_a_comparison_has_a_line_for_each_figure(capsys: pytest.CaptureFixture[str]) -> None:
    echo_comparison(_rows(2))
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["group-0", "group-1"],
        ["final", "accuracy", "0.0000", "±", "0.012", "0.1000", "±", "0.012"],
        [],
        ["the", "same", "in", "all:", "rounds", "failed", "0"],
    ]
    echo_comparison(_rows(1))
    assert "rounds failed   0" in capsys.readouterr().out


WIDE = """
from fedkit.cli.output import echo_comparison
rows = [{"group": f"group-{i}", "final accuracy": f"0.{i}000 +- 0.012", "failed": "0"} for i in range(9)]
echo_comparison(rows)
"""


def _on_a_terminal(script: str) -> str:
    """What a script prints on a terminal of 80 columns, without its colours."""
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", script], stdout=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while process.poll() is None or select.select([ours], [], [], 0)[0]:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # Linux says so when the other end is closed
                break
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r", "")


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_on_a_terminal_a_comparison_fits_80_columns() -> None:
    text = _on_a_terminal(WIDE)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("final accuracy") == 3
    assert all(f"0.{i}000 +- 0.012" in text for i in range(9))
    assert "the same in all: failed 0" in text
