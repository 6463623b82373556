"""A command to call and a small workload of one's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedkit.cli import app

OWN = '''
"""A toy."""
import numpy as np
from fedkit.errors import ClientFailed
from fedkit_clients.numpy_trainer import NumpyWorkload, Softmax
from fedkit_strategies.fedavg import FedAvg


def make(*, seed, fail: bool = False, sleep: float = 0.0, end: str = ""):
    """Two Gaussians, four clients."""
    if end == "bug":
        raise ZeroDivisionError("a bug of the user")
    if end == "exit":
        raise SystemExit(0)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40, 2)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    made = NumpyWorkload(Softmax(2, 2), {f"c{i}": (x[i::4], y[i::4]) for i in range(4)}, test=(x, y))
    return Slow(made, fail, sleep, end)


class Failing:
    examples = 10

    def train(self, pass_, task, correct):
        raise ClientFailed("no_data", "x", "is gone")


class Slow:
    def __init__(self, inner, fail, sleep, end):
        self.inner, self.fail, self.sleep, self.end = inner, fail, sleep, end

    def __getattr__(self, name):
        return getattr(self.__dict__["inner"], name)

    def init(self, seed):
        return self.inner.init(seed)

    def clients(self):
        return self.inner.clients()

    def trainer(self, client):
        return Failing() if self.fail else self.inner.trainer(client)

    def evaluate(self, model):
        import time
        time.sleep(self.sleep)
        if self.end == "exit later":
            raise SystemExit(0)
        return self.inner.evaluate(model)
'''
SCENARIO = """
workload = "own.py:make"
description = "a toy"
[rounds]
count = 2
[train]
lr = 0.5
batch = 5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with toy.toml in it."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "toy.toml").write_text(SCENARIO)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fedkit() -> Callable[..., Any]:
    """Calls the command in this process; gives exit_code, stdout and stderr."""

    def call(*words: str) -> Any:
        result = CliRunner().invoke(app, list(words))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call
