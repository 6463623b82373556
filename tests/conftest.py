"""What all tests share: data that is required in CI, and no threads fighting for cores."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest


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
