"""Files of a device: replaced whole, and for good where that matters."""

from __future__ import annotations

import os
from pathlib import Path

from fedkit.runfolder import sync


def write_file(path: Path, *parts: bytes, lasting: bool = True) -> None:
    """Replace `path` by `parts`, end to end. lasting: flushed to the disk before this returns."""
    beside = path.with_name(path.name + ".tmp")
    try:
        with beside.open("wb") as file:
            file.writelines(parts)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
    except OSError:
        remove(beside)  # a disk that is full has no room for a part of it
        raise
    beside.replace(path)
    if lasting:
        sync(path.parent)


def remove(path: Path) -> None:
    """Remove a file; one that is gone is no error."""
    path.unlink(missing_ok=True)


def newest_first(folder: Path) -> list[Path]:
    """The files of a folder, the one that was written last first."""
    return sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
