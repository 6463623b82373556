"""Files with a checksum in front; one that is damaged is set aside, and its owner finds it there.

A file is damaged that is gone, cannot be read, or holds other bytes than were written. All other errors of a
disk may pass, and are raised.
"""

from __future__ import annotations

import errno
import hashlib
import logging
from pathlib import Path

from fedkit.errors import FedkitError
from fedkit_clients.edge.files import newest_first, private_folder, remove, write_file

log = logging.getLogger("fedkit.edge")
SUM = 16
"""Bytes of the checksum, BLAKE2b."""
KEPT = 16
"""Damaged files that are kept; older ones go, or they would fill the disk."""
LASTING = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EIO, errno.EISDIR, errno.ENOTDIR)
"""Errors that say that a file is damaged."""


class Damaged(FedkitError):
    """What was written is not there any more."""


def write_checked(path: Path, *parts: bytes, lasting: bool = True) -> None:
    """Replace `path` by a checksum and `parts`; as write_file."""
    write_file(path, _sum(*parts), *parts, lasting=lasting)


def read_checked(path: Path) -> bytes:
    """The parts, end to end; Damaged, OSError."""
    data = read_lasting(path)
    if _sum(data[SUM:]) != data[:SUM]:
        raise Damaged(f"{path} is damaged: its checksum does not match")
    return data[SUM:]


def read_lasting(path: Path) -> bytes:
    """The bytes of a file; Damaged, OSError."""
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno not in LASTING:
            raise
        raise Damaged(f"{path} cannot be read: {error.strerror}") from error


def set_aside(path: Path, folder: Path, why: object) -> None:
    """Move a damaged file to where its owner finds it; one that cannot be moved is removed."""
    log.error("%s; it is set aside in %s, and the client goes on without it", why, folder)
    private_folder(folder)
    try:
        path.replace(folder / path.name)
    except FileNotFoundError:
        return
    except OSError as error:
        log.error("%s cannot be set aside and is removed: %s", path, error)
        remove(path)
    for old in newest_first(folder)[KEPT:]:
        remove(old)


def _sum(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=SUM)
    for part in parts:
        digest.update(part)
    return digest.digest()
