"""What a run looks like on a terminal and in a log."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedkit.cli.progress import Bar, Lines, masked, show_metrics
from fedkit.errors import RunFailed
from fedkit.events import Replied
from fedkit.history import Fate, Outcome
from fedkit.launch import run_scenario, saved_scenario
from fedkit.report.units import times
from fedkit.scenario import read

CARRY = ["rounds.late=carry", "devices.speed=20", "devices.spread=0.6", "rounds.deadline=0.5"]
"""Some of the toy's clients are too slow for the deadline."""

BIG = """
import numpy as np
from fedkit_clients import MLP, NumpyWorkload


def make():
    x = np.random.default_rng(0).normal(size=(8, 100)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)
    return NumpyWorkload(MLP(100, (100,), 2), {"a": (x, y)}, test=(x, y))
"""


def _terminal() -> tuple[Console, io.StringIO]:
    screen = io.StringIO()
    return Console(file=screen, force_terminal=True, width=200, color_system=None), screen


def test_the_bar_shows_round_metric_clients_bytes_and_time(folder: Path) -> None:
    console, screen = _terminal()
    bar = Bar(console, "toy")
    run_scenario(read("toy.toml"), observers=[bar])
    bar.replied(Replied(2, "c0", Fate(Outcome.counted), 3, 4))
    bar.close()
    last = screen.getvalue()
    for part in ("toy", "2/2", "accuracy 0.", "now 3/4", "8 counted ·", "up,", "virtual"):
        assert part in last


@pytest.mark.parametrize("make", [Bar, Lines])
def test_a_run_that_starts_twice_is_counted_once(
    folder: Path, make: Callable[[Console, str], Bar | Lines]
) -> None:
    """As one does that waits in its process until a full disk can be written again."""
    run_scenario(read("toy.toml"), out="r")
    console, screen = _terminal()
    shown = make(console, "toy")
    for count in (3, 4):
        again = saved_scenario(Path("r"), [f"rounds.count={count}"])
        run_scenario(again, out="r", resume=True, observers=[shown])
    shown.close()
    last = screen.getvalue().rpartition("4/4")[2]
    assert "16 counted" in last, last


def test_a_resumed_bar_starts_where_the_run_stood(folder: Path) -> None:
    run_scenario(read("toy.toml"), out="r")
    console, screen = _terminal()
    bar = Bar(console, "toy")
    run_scenario(saved_scenario(Path("r"), ["rounds.count=3"]), out="r", resume=True, observers=[bar])
    bar.close()
    assert "3/3" in screen.getvalue()
    assert "12 counted" in screen.getvalue()


def test_the_bar_lets_go_of_the_terminal_when_the_run_breaks(folder: Path) -> None:
    console, screen = _terminal()
    bar = Bar(console, "toy")

    class Breaks:
        def round_ended(self, event: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_scenario(read("toy.toml"), observers=[bar, Breaks()])
    bar.close()
    bar.close()
    shown, hidden = screen.getvalue().count("\x1b[?25h"), screen.getvalue().count("\x1b[?25l")
    assert shown >= hidden > 0  # the cursor is back


def test_a_failed_round_says_why(folder: Path) -> None:
    console, screen = _terminal()
    scenario = read("toy.toml", ["rounds.count=1", "devices.drop=1", "rounds.max_failures=2"])
    with pytest.raises(RunFailed):
        run_scenario(scenario, observers=[Lines(console, "toy")])
    assert "toy round 1/1  failed: 0 of 4 invited clients were counted" in screen.getvalue()
    assert "0 counted, 4 missing" in screen.getvalue()


def test_a_line_tells_how_much_smaller_than_float32(folder: Path) -> None:
    console, screen = _terminal()
    (folder / "big.py").write_text(BIG)
    settings = [
        "workload=big.py:make",
        "codec.up=eden",
        "codec.down=ecsq:delta=2,mode=near",
        "rounds.count=3",
    ]
    result = run_scenario(read("toy.toml", settings), observers=[Lines(console, "toy", every=0)])
    up, down = (result.summary[f"bytes_{w}_float32"] / result.summary[f"bytes_{w}"] for w in ("up", "down"))
    assert min(up, down) > 10
    assert f"up ({times(up)})" in screen.getvalue().splitlines()[-1]
    assert f"down ({times(down)})" in screen.getvalue().splitlines()[-1]


def test_lines_are_held_back_but_for_the_last(folder: Path) -> None:
    console, screen = _terminal()
    lines = Lines(console, "toy", every=1000)
    run_scenario(read("toy.toml", ["rounds.count=5"]), observers=[lines])
    assert re.findall(r"round \d/5", screen.getvalue()) == ["round 1/5"]
    lines.close()
    lines.close()
    assert re.findall(r"round \d/5", screen.getvalue()) == ["round 1/5", "round 5/5"]


def test_what_is_carried_in_is_not_missing(folder: Path) -> None:
    console, screen = _terminal()
    settings = [*CARRY, "rounds.count=6"]
    result = run_scenario(read("toy.toml", settings), observers=[Lines(console, "toy", every=0)])
    late, carried = result.summary["clients_late"], result.summary["clients_carried"]
    assert 0 < carried <= late
    missing = f", {late - carried} missing" if late > carried else ""
    counted = result.summary["clients_counted"]
    assert f"{counted} counted, {carried} carried in{missing} ·" in screen.getvalue().splitlines()[-1]


def test_secure_rounds_say_how_many_were_summed_and_whether_it_was_verified(folder: Path) -> None:
    console, screen = _terminal()
    settings = ["secagg.mode=lying_server", "secagg.verify=true", "rounds.count=2"]
    result = run_scenario(read("toy.toml", settings), observers=[Lines(console, "toy", every=0)])
    clients = len(result.history.rounds[0].fates)
    said = f"  secret sum of {clients}/{clients}, equal to the plain sum  "
    assert all(said in line for line in screen.getvalue().splitlines())
    record = result.history.rounds[-1]
    assert masked(record).strip() == said.strip()
    assert record.secagg is not None
    false = dataclasses.replace(record.secagg, verified=False)
    odd = dataclasses.replace(record, secagg_evaluate=false)
    assert masked(odd) == masked(record) + "; that of metrics, NOT the plain sum"
    for other in (dataclasses.replace(record, ok=False), dataclasses.replace(record, secagg=None)):
        assert masked(other) == ""


def test_metrics_in_one_line() -> None:
    assert show_metrics({"loss": 0.25, "accuracy": 1.0}) == "accuracy 1  loss 0.25"


def test_a_name_that_is_markup_is_shown_as_it_is(folder: Path) -> None:
    console, screen = _terminal()
    bar = Bar(console, "a [/red] :smile: run")
    run_scenario(read("toy.toml"), observers=[bar])
    bar.close()
    assert "a [/red] :smile: run" in screen.getvalue()
