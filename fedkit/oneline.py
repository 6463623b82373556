"""What went wrong, in a line that says what to do."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from fedkit.errors import FedkitError, shown

_ADVICE: Mapping[int, str] = {
    errno.ENOSPC: "make room on the disk and try again",
    errno.EDQUOT: "make room in your quota and try again",
    errno.EACCES: "give a place that you may read and write",
    errno.EPERM: "give a place that you may read and write",
    errno.EROFS: "give a place that can be written",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOTDIR: "a file stands where a folder is needed: give another place",
    errno.EEXIST: "a file stands where a folder is needed: give another place",
    errno.EISDIR: "a folder stands where a file is needed: give another name",
    errno.ENOENT: "check the name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def told(error: BaseException) -> str:
    """An error in a line: what, where, and what to do."""
    if isinstance(error, SystemExit):
        return f"code that was loaded calls sys.exit({shown(error.code)}): it must raise an exception instead"
    if isinstance(error, OSError) and error.strerror:
        advice = _ADVICE.get(error.errno or 0, "mend that and try again")
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror}; {advice}"
    return str(error) if isinstance(error, FedkitError) else f"{type(error).__name__}: {error}"
