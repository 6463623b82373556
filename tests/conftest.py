"""What all tests share: data that is required in CI, Ctrl-C that is heard, programs that start fast."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest


def pytest_configure() -> None:
    """A shell ignores SIGINT for what it runs in the background, and so would programs that tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of programs are started: compiled once


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With FEDKIT_REQUIRE_DATA set, a data test that was skipped has failed."""
    report = yield
    required = os.environ.get("FEDKIT_REQUIRE_DATA")
    if required and report.skipped and item.get_closest_marker("data") is not None:
        report.outcome = "failed"
        report.longrepr = f"skipped although FEDKIT_REQUIRE_DATA is set: {report.longrepr}"
    return report
