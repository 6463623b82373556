"""The newest model as a file, for whatever else the device does with it."""

from __future__ import annotations

import logging
from pathlib import Path

from fedkit import runfolder
from fedkit.errors import RunFailed
from fedkit.tensors import Tensors

log = logging.getLogger("fedkit.edge")


class ModelOut:
    """Writes each newer model over `path`, as safetensors; a reader sees one whole model or another.

    Its metadata name the job and the version of the model, which grows by one each round.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = ("", 0)

    def write(self, job: str, version: int, model: Tensors) -> None:
        """Write this model unless it, or a later one of the job, is there; a failure is logged."""
        before, held = self._written
        if before == job and version <= held:
            return
        try:
            runfolder.save_tensors(self._path, model, {"job": job, "version": str(version)})
        except RunFailed as error:
            log.error("the model is not written: %s", error.__cause__ or error)
            return
        self._written = (job, version)
