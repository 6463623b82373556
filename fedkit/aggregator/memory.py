"""glibc's allocator, told to give back what is freed: else half of it stays in pools of each thread."""

from __future__ import annotations

import ctypes

_LARGE = 1 << 18
"""Bytes from which on an allocation is the system's own, and goes back at once."""
_SETTINGS = {-8: 2, -3: _LARGE, -1: _LARGE}
"""M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD (mallopt(3)); a set threshold does not grow any more."""


def frugal() -> bool:
    """Set that for the whole process, before its threads begin; False where there is no glibc."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(name, value) == 1 for name, value in _SETTINGS.items())
