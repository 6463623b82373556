"""Long proofs run the command itself, two runs at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedkit.history import History, RoundRecord

Histories = Mapping[str, History]


def _run(folder: Path, arguments: Sequence[str]) -> History:
    """`fedkit run` in a process of its own; what it leaves in rounds.jsonl."""
    command = [str(Path(sys.executable).with_name("fedkit")), "run", *arguments, "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    return History(rounds=[RoundRecord.from_json(line) for line in lines])


@pytest.fixture
def run_all(tmp_path: Path) -> Callable[[Mapping[str, Sequence[str]]], Histories]:
    """Runs scenarios given by name -> arguments; name -> history."""

    def run(jobs: Mapping[str, Sequence[str]]) -> Histories:
        with ThreadPoolExecutor(2) as pool:
            folders = [tmp_path / str(i) for i in range(len(jobs))]
            return dict(zip(jobs, pool.map(_run, folders, jobs.values()), strict=True))

    return run


@pytest.fixture
def needs() -> Callable[[str], None]:
    """Skips the test, naming the file, where a real data file is absent."""

    def need(name: str) -> None:
        folder = os.environ.get("FEDKIT_DATA", "")
        if not folder or not (Path(folder) / name).is_file():
            pytest.skip(f"needs {name} in the directory FEDKIT_DATA (docs/data.md)")

    return need
