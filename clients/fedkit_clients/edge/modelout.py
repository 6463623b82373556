"""The newest model as a file, for whatever else the device does with it."""

from __future__ import annotations

import logging
from pathlib import Path

from fedkit import runfolder
from fedkit.errors import CheckpointError, ConfigError, RunFailed
from fedkit.tensors import Tensors

log = logging.getLogger("fedkit.edge")
FIRST = 1
"""The version of the model that a run begins with."""


class ModelOut:
    """Writes each newer model over `path`, as safetensors; a reader sees one whole model or another.

    Its metadata name the job and the version of the model, which grows by one each round. The first, which no
    round has trained, is not written: what is there, from another run, does better. ConfigError: there
    is no folder for it, and none can be made, or `path` is one.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be written: {error.strerror}; give another --model-out"
            ) from error
        if path.is_dir():
            raise ConfigError(f"{path} is a folder: --model-out takes the name of a file")
        self._path = path
        self._written = _held(path)

    def wants(self, job: str, version: int) -> bool:
        """Whether it was trained, and neither it nor a later one of the job is there."""
        before, held = self._written
        return version > FIRST and (before != job or version > held)

    def write(self, job: str, version: int, model: Tensors) -> None:
        """Write this model unless it, or a later one of the job, is there; a failure is logged."""
        if not self.wants(job, version):
            return
        try:
            runfolder.save_tensors(self._path, model, {"job": job, "version": str(version)})
        except RunFailed as error:
            log.error("the model is not written: %s", error.__cause__ or error)
            return
        self._written = (job, version)


def _held(path: Path) -> tuple[str, int]:
    """Job and version of the model that is there, as far as that can be read."""
    try:
        about = runfolder.load_tensors(path)[1] if path.is_file() else {}
        return about.get("job", ""), int(about.get("version", "0"))
    except (CheckpointError, ValueError):
        return "", 0
