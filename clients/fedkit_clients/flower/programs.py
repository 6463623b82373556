"""Flower's programs on this machine: a SuperLink, SuperNodes and one run of an app, started and stopped.

They listen on loopback only. Telemetry, the check for updates and installing what an app asks for are
switched off. Each program is the child of a small attendant, which ends it when this process is gone,
however that came about.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from fedkit.errors import ConfigError, RunFailed
from fedkit_clients.flower import attendant

QUIET: Mapping[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
STARTING = 300.0
"""Seconds that the SuperLink may take to answer."""
CONNECTION = "fedkit-loopback"
_HOST = "127.0.0.1"


def program(name: str) -> str:
    """The path of one of Flower's programs. ConfigError: it is not installed."""
    found = shutil.which(name, path=_path())
    if found is None:
        raise ConfigError(f"Flower's program {name} is not found: pip install 'fedkit[flower]'")
    return found


class Programs:
    """All programs of one fleet. folder: where logs and Flower's own files lie; kept: logs are to stay."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kept = folder, False
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.address = f"{_HOST}:{free_port()}"

    def superlink(self) -> None:
        """Start the SuperLink, and wait until it answers. RunFailed: it does not."""
        host, port = self.address.split(":")
        home = self.folder / "flwr"
        home.mkdir()
        connection = f'[superlink.{CONNECTION}]\naddress = "{self.address}"\ninsecure = true\n'
        (home / "config.toml").write_text(connection)
        self._start("superlink", "flower-superlink", "--insecure", "--host", host, "--port", port)
        end = time.monotonic() + STARTING
        while not self._answers():
            if time.monotonic() > end or self._running["superlink"].poll() is not None:
                raise self.failed("superlink", "Flower's SuperLink did not start")
            time.sleep(0.1)

    def supernode(self, name: str, config: Mapping[str, str | int]) -> None:
        """Start a SuperNode with this node config."""
        port, told = str(free_port()), " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())
        command = ["flower-supernode", "--insecure", "--superlink", self.address]
        self._start(name, *command, "--host", _HOST, "--port", port, "--node-config", told)

    def run(self, app: Path, config: Mapping[str, str | int]) -> None:
        """Have the SuperLink run an app. RunFailed: it will not."""
        told = " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())
        command = [program("flwr"), "run", str(app), CONNECTION, "--run-config", told]
        done = subprocess.run(  # noqa: S603 - the command is our own
            command, env=self.environment(), cwd=self.folder, capture_output=True, text=True
        )
        (self.folder / "run.log").write_text(done.stdout + done.stderr)
        if done.returncode:
            raise self.failed("run", "Flower does not run fedkit's app")

    def pid(self, name: str) -> int:
        """The process of a program."""
        return int((self.folder / f"{name}.pid").read_text())

    def check(self) -> None:
        """RunFailed: the SuperLink is gone."""
        if self._running["superlink"].poll() is not None:
            raise self.failed("superlink", "Flower's SuperLink has ended")

    def failed(self, name: str, what: str) -> RunFailed:
        """The error, with what that program said last; its log is kept."""
        self.kept = True
        log = self.folder / f"{name}.log"
        text = log.read_text(errors="replace") if log.is_file() else ""
        said = " ".join(" ".join(line.strip("│╭╰─╯╮ ") for line in text.splitlines()).split())
        return RunFailed(f"{what}: ... {said[-300:]} (all of it: {log})")

    def stop(self) -> None:
        """End all of them, the SuperLink last."""
        for running in reversed(self._running.values()):
            if running.stdin is not None:
                running.stdin.close()
        for running in self._running.values():
            running.wait()
        self._running.clear()

    def _start(self, name: str, *command: str) -> None:
        pid = str(self.folder / f"{name}.pid")
        words = [sys.executable, attendant.__file__, pid, program(command[0]), *command[1:]]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(  # noqa: S603 - the command is our own
                words,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self.environment(),
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C is for the run, which then stops its programs in order
            )

    def environment(self) -> dict[str, str]:
        """What programs are started with, and the command `flwr`."""
        return {**os.environ, **QUIET, "PATH": _path(), "FLWR_HOME": str(self.folder / "flwr")}

    def _answers(self) -> bool:
        try:
            with urlopen(f"http://{self.address}/health", timeout=1.0) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _path() -> str:
    """Beside this Python first: Flower's programs call each other by name."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
