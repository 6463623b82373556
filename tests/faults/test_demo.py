"""The demonstration of a deployment ends with the same model, and says what it did."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "clients" / "demo-deploy" / "demo.py"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a matter of POSIX")
def test_the_demo_shows_two_deaths_and_one_model(tmp_path: Path) -> None:
    command = [sys.executable, str(DEMO), "--runs", str(tmp_path), "--rounds", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("*** kill -9") == 2
    assert "the same model, bit for bit" in done.stdout
    assert (tmp_path / "deploy-1" / "server" / "run" / "report.html").exists()
