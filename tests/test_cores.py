"""How many cores there are, and how many of them masks get."""

from __future__ import annotations

import os

import pytest

from fedkit.cores import MOST, mask_threads, usable


def test_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 6}, raising=False)
    assert usable() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert usable() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable() == 1


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (MOST, MOST), (64, MOST)])
def test_masks_get_a_few(monkeypatch: pytest.MonkeyPatch, cores: int, threads: int) -> None:
    monkeypatch.setattr("fedkit.cores.usable", lambda: cores)
    assert mask_threads() == threads
