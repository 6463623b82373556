"""The directory of a client: the run that it has joined, and a spool for that alone.

job        the id of the run, a line, and its job as it came
JOB-RUN/   the spool of this run of the job (spool.py): another run numbers its rounds alike
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from fedkit.errors import ConfigError
from fedkit.runfolder import lock_file
from fedkit_clients.edge.checked import Damaged, read_lasting, set_aside
from fedkit_clients.edge.files import private_folder, write_file
from fedkit_clients.edge.membership import settle
from fedkit_clients.edge.spool import Spool

_RUN = re.compile(r"[0-9a-f]{16}")
_FOLDER = re.compile(r"[0-9a-f]{16}(-[0-9a-f]{16})?")


class Root:
    """The directory of a client, which one process has to itself; ConfigError if another has it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            private_folder(directory)
            self._lock = lock_file(directory / "lock")
        except ConfigError:
            told = f"{directory} is in use: stop the client, or the command, that runs there"
            raise ConfigError(told) from None
        except OSError as error:
            raise ConfigError(f"{directory} cannot be used: {error.strerror}") from error
        settle(directory)

    def job(self) -> tuple[str, bytes] | None:
        """The run that was joined last, and its job as it came."""
        path = self.directory / "job"
        if not path.exists():
            return None
        try:
            run, _, data = read_lasting(path).partition(b"\n")
        except Damaged as error:
            set_aside(path, self.directory / "damaged", error)
            return None
        return (run.decode(), data) if run.isascii() and _RUN.fullmatch(run.decode()) else None

    def begin(self, run: str, job: str, data: bytes) -> Spool:
        """The spool of a run; what is left of others is removed."""
        if self.job() != (run, data):
            write_file(self.directory / "job", run.encode() + b"\n" + data)
        name = f"{job}-{run}"
        for folder in self.directory.iterdir():
            if folder.is_dir() and folder.name != name and _FOLDER.fullmatch(folder.name):
                shutil.rmtree(folder)
        return Spool(self.directory / name)

    def close(self) -> None:
        """Let another process have it."""
        self._lock.close()
