"""Less memory for the process: glibc gives back what is freed, of which half would stay in pools of each
thread, and connections by TLS have small buffers.

What is large goes back when it is freed. What is not, a round needs again: to have each page of it from the
system costs more than to compute with it, so that goes back from time to time (`give_back`).
"""

from __future__ import annotations

import ctypes
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from typing import cast

_LARGE = 1 << 22
"""Bytes from which on an allocation is the system's own, and goes back at once."""
_SETTINGS = {-8: 2, -3: _LARGE, -1: 4 * _LARGE}
"""M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD (mallopt(3)); a set threshold does not grow any more."""
_TLS = 1 << 15
"""Bytes of the buffer that asyncio has for each connection by TLS; two records. Its own choice is 256 KiB."""


def frugal() -> bool:
    """Do that for the whole process, before its threads begin; False where there is no glibc."""
    SSLProtocol.max_size = _TLS
    mallopt = _glibc("mallopt")
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in _SETTINGS.items())


def give_back() -> None:
    """Give the system what is free, also from between what is kept."""
    if (trim := _glibc("malloc_trim")) is not None:
        trim(0)


def _glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc; None where there is no glibc."""
    try:
        return cast("Callable[..., int]", getattr(ctypes.CDLL("libc.so.6"), name))
    except (OSError, AttributeError):
        return None
