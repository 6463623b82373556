"""Files of a device: its owner's alone, replaced whole, and for good where that matters."""

from __future__ import annotations

import os
from pathlib import Path

from fedkit.runfolder import sync


def private(path: str, flags: int) -> int:
    """Open a file that its owner alone may read, whatever the umask: an opener for `open`."""
    return os.open(path, flags, 0o600)


def private_folder(path: Path) -> None:
    """A folder that its owner alone may enter; one that is there stays as it is."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def append_line(path: Path, line: bytes, lasting: bool = False) -> None:
    """Append a line, or nothing: what a full disk took of it would run into the next one."""
    before = path.stat().st_size if path.exists() else 0
    try:
        with open(path, "ab", opener=private) as file:
            file.write(line)
            file.flush()
            if lasting:
                os.fsync(file.fileno())
    except OSError:
        if path.exists():
            os.truncate(path, before)
        raise


def write_file(path: Path, *parts: bytes, lasting: bool = True) -> None:
    """Replace `path` by `parts`, end to end. lasting: flushed to the disk before this returns."""
    beside = path.with_name(path.name + ".tmp")
    try:
        with open(beside, "wb", opener=private) as file:
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
