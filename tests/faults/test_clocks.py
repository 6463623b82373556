"""Devices whose clocks are wrong by a day: in Python, in TLS, everywhere."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

DAY = 86_400
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


@pytest.mark.slow
@pytest.mark.parametrize("tls", [True, False], ids=["tls", "http"])
def test_clocks_that_are_wrong_by_a_day_cost_time_only(deploy: Any, clock: Any, tls: bool) -> None:
    clocks = {"c000": clock(-DAY), "c001": clock(DAY)}
    deployment = deploy({"rounds": 4}, tls=tls, environments=clocks)
    deployment.finish()
    deployment.check()
    days = [deployment.clients[name].logs()[-1][:10] for name in ("c000", "c002", "c001")]
    assert days == sorted(set(days)), days
