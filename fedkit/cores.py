"""How many cores this process may use, and how many of them masks get."""

from __future__ import annotations

import os

MOST = 4  # what a secure session does beside masks is done by one: more would wait for it


def usable() -> int:
    """Cores that this process may run on, where the system tells; else those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def mask_threads() -> int:
    """Threads that share the masks of one vector. The sum is the same with any number."""
    return min(usable(), MOST)
