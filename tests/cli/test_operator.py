"""`fedkit status` and `fedkit backup`, of an aggregator that runs and of one that does not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedkit import keyfile
from fedkit.secagg.identity import Trust
from fedkit.secagg.rosterfile import write_trust

SETTINGS = ("population.clients=3", "rounds.cohort=3", "rounds.quorum=2", "rounds.over_select=1")
FEDKIT = [sys.executable, "-c", "import sys; from fedkit.cli import main; sys.exit(main())"]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Path]:
    """A folder in which an aggregator waits for its clients."""
    keys = {f"c00{i}": keyfile.make_key(tmp_path / f"c00{i}").public for i in range(3)}
    server = keyfile.make_key(tmp_path / "aggregator").public
    write_trust(tmp_path / "roster.toml", Trust.of_roster(keys, server))
    command = [*FEDKIT, "serve", "digits", *SETTINGS, "--address", "127.0.0.1:0", "--log", "log.jsonl"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert re.search("listening on https://", process.stderr.readline())
        yield tmp_path
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=600)
        assert process.returncode == 130
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(os.name == "nt", reason="signals are a matter of POSIX")
def test_of_one_that_runs_and_of_its_copy(
    fedkit: Any, running: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(running)
    told = _told_of_a_run(fedkit)
    assert (told["running"], told["run"]["done"]) == (True, 0)
    assert [row["client"] for row in told["clients"]] == ["c000", "c001", "c002"]
    text = fedkit("status").stdout
    assert "running for" in text
    assert re.search("c001 +never", text)
    copied = fedkit("backup", "copy")
    assert (copied.exit_code, (running / "copy" / "identity.pem").exists()) == (0, True), copied.stderr
    again = fedkit("backup", "copy")
    assert again.exit_code == 2
    assert "is there already" in again.stderr
    of_copy = json.loads(fedkit("status", "--dir", "copy", "--format", "json").stdout)
    assert (of_copy["running"], of_copy["job"]) == (False, told["job"])
    assert "not running" in fedkit("status", "--dir", "copy").stdout
    offline = fedkit("backup", "second", "--dir", "copy")
    assert (offline.exit_code, (running / "second" / "run" / "scenario.toml").exists()) == (0, True)
    (running / "aggregator" / "operator.address").write_text("http://127.0.0.1:1")
    closed = fedkit("backup", "third")
    assert closed.exit_code == 2
    assert "stop it for the copy" in closed.stderr
    lines = [json.loads(line) for line in (running / "log.jsonl").read_text().splitlines()]
    assert {"fedkit.aggregator", "uvicorn.error"} <= {line["logger"] for line in lines}


def _told_of_a_run(fedkit: Any) -> dict[str, Any]:
    """The status, once the aggregator, which listens before that, has begun its run."""
    ends = time.monotonic() + 600
    while True:
        made = fedkit("status", "--format", "json")
        told: dict[str, Any] = json.loads(made.stdout)
        assert made.exit_code == 0
        if told["job"] is not None:
            return told
        assert time.monotonic() < ends, told
        time.sleep(0.05)


def test_where_there_is_no_aggregator(fedkit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["status"], ["backup", "copy"]):
        made = fedkit(*words)
        assert made.exit_code in (1, 2)
        assert "aggregator" in made.stderr
        assert "holds no aggregator: there is no" in made.stderr
