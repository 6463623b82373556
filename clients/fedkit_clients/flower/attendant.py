"""Runs a program for as long as its own standard input is open, then ends it and all that it has started.

    python attendant.py FILE PROGRAM [ARGUMENT]...

FILE is told the program's process id.

Whoever holds the other end of that pipe need do nothing: when it is gone, killed or not, the pipe is closed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

PATIENCE = 10.0
"""Seconds for a program to end by itself when it was asked to."""


def attend(file: str, command: list[str]) -> int:
    """Run it; its exit code."""
    running = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - the command is our own
    Path(file).write_text(str(running.pid))
    threading.Thread(target=_end_at_eof, args=(running,), daemon=True).start()
    code = running.wait()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)  # what it has started and left
    return code


def _end_at_eof(running: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1 << 10):
        pass
    running.terminate()
    try:
        running.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(attend(sys.argv[1], sys.argv[2:]))
