"""Less memory for the process: glibc gives back what is freed, of which half would stay in pools of each
thread, and connections by TLS have small buffers.
"""

from __future__ import annotations

import ctypes
from asyncio.sslproto import SSLProtocol

_LARGE = 1 << 18
"""Bytes from which on an allocation is the system's own, and goes back at once."""
_SETTINGS = {-8: 2, -3: _LARGE, -1: _LARGE}
"""M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD (mallopt(3)); a set threshold does not grow any more."""
_TLS = 1 << 15
"""Bytes of the buffer that asyncio has for each connection by TLS; two records. Its own choice is 256 KiB."""


def frugal() -> bool:
    """Do that for the whole process, before its threads begin; False where there is no glibc."""
    SSLProtocol.max_size = _TLS
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(name, value) == 1 for name, value in _SETTINGS.items())
