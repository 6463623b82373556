"""An attendant ends its program when its own standard input is closed, and what that has started."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedkit_clients.flower import attendant

STARTS = """
import subprocess, time
subprocess.Popen(["sleep", "600"])
print("up", flush=True)
time.sleep(600)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""
LEAVES = """
import subprocess, sys, time
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); "
stubborn += "time.sleep(600)"
left = subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True, stdout=subprocess.PIPE)
left.stdout.readline()
open("%s", "w").write(str(left.pid))
"""
ATTEND = """
import attendant, sys
attendant.PATIENCE = float(sys.argv[1])
sys.exit(attendant.attend(sys.argv[2], sys.argv[3:]))
"""


def members(group: int) -> list[int]:
    """The living processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def start(tmp_path: Path, program: str, patience: float = 10.0) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", ATTEND, str(patience), str(tmp_path / "pid")]
    return subprocess.Popen(
        [*command, sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(attendant.__file__).parent,
        start_new_session=True,
    )


@pytest.fixture
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An attendant whose program is up."""
    program, patience = request.param
    made = start(tmp_path, program, patience)
    assert made.stdout is not None
    assert made.stdout.readline() == b"up\n"
    yield made
    made.kill()
    made.wait()
    made.stdout.close()


@pytest.mark.parametrize(
    "running", [(STARTS, 10.0), (STUBBORN, 0.2)], indirect=True, ids=["starts", "stubborn"]
)
def test_nothing_is_left_when_the_pipe_is_closed(running: subprocess.Popen[bytes], tmp_path: Path) -> None:
    assert int((tmp_path / "pid").read_text()) in members(running.pid)
    assert running.stdin is not None
    running.stdin.close()
    running.wait()
    end = time.monotonic() + 600
    while members(running.pid):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_program_that_ends_by_itself_gives_its_code(tmp_path: Path) -> None:
    with start(tmp_path, "raise SystemExit(7)") as made:
        assert made.wait() == 7


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux gives orphans to another process than the first"
)
def test_who_has_left_the_group_and_will_not_end_is_ended(tmp_path: Path) -> None:
    with start(tmp_path, LEAVES % (tmp_path / "left"), 0.2) as made:
        assert made.wait() == 0
    assert not members(int((tmp_path / "left").read_text()))
