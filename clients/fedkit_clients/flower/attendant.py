"""Runs a program for as long as its own standard input is open, then ends it and all that it has started.

    python attendant.py FILE PROGRAM [ARGUMENT]...

FILE is told the program's process id.

Whoever holds the other end of that pipe need do nothing: when it is gone, killed or not, the pipe is closed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

PATIENCE = 10.0
"""Seconds for a program to end by itself when it was asked to."""
_SET_CHILD_SUBREAPER = 36  # of Linux's prctl


def attend(file: str, command: list[str]) -> int:
    """Run it; its exit code."""
    if sys.platform == "linux":  # who loses its parent becomes a child of this process
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    running = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - the command is our own
    Path(file).write_text(str(running.pid))
    threading.Thread(target=_end_at_eof, args=(running,), daemon=True).start()
    code = running.wait()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)  # what it has started and left
    _end_orphans()
    return code


def _end_at_eof(running: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1 << 10):
        pass
    running.terminate()
    try:
        running.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        running.kill()


def _end_orphans() -> None:
    """Also those that have left the group: Flower's SuperExec has, and a ServerApp would wait for ever."""
    end, asked = time.monotonic() + PATIENCE, set[int]()
    while orphans := _children():
        for pid in orphans - asked:
            os.kill(pid, signal.SIGTERM)
        for pid in orphans if time.monotonic() > end else ():
            os.kill(pid, signal.SIGKILL)
        asked |= orphans
        time.sleep(0.05)


def _children() -> set[int]:
    """The living children of this process; none where there is no /proc."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            state, parent, *_ = stat.read_text().rpartition(")")[2].split()
            if int(parent) == os.getpid() and state != "Z":
                found.add(int(stat.parent.name))
    return found


if __name__ == "__main__":
    sys.exit(attend(sys.argv[1], sys.argv[2:]))
