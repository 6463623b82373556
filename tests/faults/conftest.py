"""Deployments of real processes for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.faults.deployment import Deployment, Plan
from tests.faults.faultproxy import Faults
from tests.faults.reaper import Reaper


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
def reaper() -> type[Reaper]:
    """Who kills."""
    return Reaper
