"""Deployments of real processes for the tests of this folder."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.faults.commands import Commands
from tests.faults.deployment import Deployment, Plan
from tests.faults.faultproxy import Faults
from tests.faults.reaper import Reaper
from tests.ports import reserved

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static time_t ahead(void) { const char *s = getenv("CLOCK_AHEAD"); return s ? atol(s) : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && clock == CLOCK_REALTIME) now->tv_sec += ahead();
    return failed;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *to, void *zone) {
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    to->tv_sec = now.tv_sec;
    to->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""
"""A library by which a process has a wrong clock."""


@pytest.fixture
def deploy(tmp_path: Path) -> Iterator[Callable[..., Deployment]]:
    """Everything that takes part is started; it ends with the test."""
    with ExitStack() as stack:

        def make(plan: dict[str, Any], faults: dict[str, Any] | None = None, **more: Any) -> Deployment:
            one = Deployment(tmp_path / "deployment", Plan(**plan), Faults(**(faults or {})), **more)
            stack.enter_context(one)
            one.start()
            return one

        yield make


@pytest.fixture
def operate(tmp_path: Path) -> Iterator[Callable[..., Commands]]:
    """Commands, by their class, in an empty folder with a port for its aggregator; they end with the test."""
    with ExitStack() as stack, reserved() as port:
        yield lambda kind: kind(tmp_path, stack, f"127.0.0.1:{port}")


@pytest.fixture
def reaper() -> type[Reaper]:
    """Who kills."""
    return Reaper


@pytest.fixture
def clock(tmp_path: Path) -> Any:
    """The environment of a process whose clock is so many seconds ahead."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here to make a wrong clock with")
    (tmp_path / "clock.c").write_text(SHIM)
    command = [compiler, "-shared", "-fPIC", "-o", "clock.so", "clock.c", "-ldl"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"the wrong clock does not compile here: {made.stderr[-300:]}")
    return lambda ahead: {"LD_PRELOAD": str(tmp_path / "clock.so"), "CLOCK_AHEAD": str(ahead)}
