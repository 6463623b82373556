"""A run that a full disk does not end: it waits, and goes on from its last checkpoint."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fedkit.aggregator.journal import Journal
from fedkit.errors import FedkitError

log = logging.getLogger("fedkit.aggregator")

LOOK = 5.0
"""Seconds between two looks whether the disk can be written."""
PROBE = 1 << 20
"""Bytes that must have room on a disk that can be written."""
_ERRNO = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.EMFILE, errno.ENFILE}
_SQLITE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}

T = TypeVar("T")


def persevering(
    go: Callable[[bool], T],
    journal: Journal,
    folder: Path,
    resume: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """go(resume), again and again while it is the disk that ends it, with waits until it can be written.

    folder: where the run is kept. All other errors are raised.
    """
    while True:
        try:
            return go(resume)
        except (FedkitError, OSError, sqlite3.Error) as error:
            if not is_of_the_disk(error):
                raise
            log.error("the run waits until the disk can be written again: %s", error)
        sleep(LOOK)
        while not _writable(journal, folder):
            sleep(LOOK)
        log.warning("the disk can be written again: the run goes on")
        resume = folder.is_dir()


def is_of_the_disk(error: BaseException | None) -> bool:
    """Whether a full, broken or read-only disk is behind an error, or that too many files are open."""
    while error is not None:
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE:
            return True
        if isinstance(error, OSError) and error.errno in _ERRNO:
            return True
        error = error.__cause__
    return False


def _writable(journal: Journal, folder: Path) -> bool:
    """Whether the journal, and a file beside the run's folder, take what is written."""
    probe = folder.parent / "probe.tmp"
    try:
        journal.beat()
        with probe.open("wb") as file:
            file.write(bytes(PROBE))
            file.flush()
            os.fsync(file.fileno())
    except (OSError, sqlite3.Error):
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True
