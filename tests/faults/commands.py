"""Commands of fedkit in one folder, as they would be typed; those that stay run beside the others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

LIMIT = 600.0
"""Seconds that a step may take, on a machine that is busy."""
_FEDKIT = "import sys; from fedkit.cli import main; sys.exit(main())"


class Commands:
    """folder: where they run, and where their logs lie. stack: what it closes, they do not outlive."""

    def __init__(self, folder: Path, stack: ExitStack, address: str) -> None:
        self.folder, self.address, self._stack = folder, address, stack

    def do(self, *words: str) -> str:
        """The output of a command that succeeds."""
        command = [sys.executable, "-c", _FEDKIT, *words]
        made = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=LIMIT)
        assert made.returncode == 0, made.stderr
        return made.stdout

    def start(
        self, log: str, *words: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """A command that stays; what it says is in the file `log`. environment: variables beside ours."""
        with (self.folder / log).open("wb") as file:
            command = [sys.executable, "-c", _FEDKIT, *words]
            given = {**os.environ, **(environment or {})}
            made = subprocess.Popen(
                command, cwd=self.folder, stdout=file, stderr=subprocess.STDOUT, env=given
            )
        self._stack.callback(made.wait, LIMIT)
        self._stack.callback(made.kill)
        return made

    def until(self, what: Callable[[], bool], why: str) -> None:
        """Wait for something; AssertionError with the ends of all logs if it does not come."""
        end = time.monotonic() + LIMIT
        while not what():
            assert time.monotonic() < end, f"{why}: it takes too long\n{self.logs()}"
            time.sleep(0.05)

    def read(self, log: str) -> str:
        """A log as far as it has come: what is written at this moment may end within a character."""
        return (self.folder / log).read_text(errors="replace")

    def logs(self) -> str:
        """The ends of all logs."""
        names = sorted(path.name for path in self.folder.glob("*.log"))
        return "\n".join(f"== {name}\n{self.read(name)[-2000:]}" for name in names)

    def said(self, log: str, text: str) -> bool:
        """Whether a pattern is in a log."""
        return re.search(text, self.read(log)) is not None
