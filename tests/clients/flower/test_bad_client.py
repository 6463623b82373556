"""The benchmark with one bad client: fedkit's runs are unharmed, which it checks itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "flower_bad_client.py"


def test_fedkits_runs_are_unharmed_and_flowers_are_not() -> None:
    pytest.importorskip("flwr.serverapp")
    pytest.importorskip("sklearn")
    done = subprocess.run([sys.executable, BENCH, "2"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    cells = [row.strip("| ").split(" | ") for row in done.stdout.splitlines()]
    rows = {first: rest[0] for first, *rest in cells if rest}
    assert rows["a NaN in one entry"] == "NaN from round 1 on"
    assert rows["the name bais for bias"].endswith("then the run ends: InconsistentMessageReplies")
    assert float(rows["none is bad"]) > 0.8
