"""`fedkit check`: the conformance kit from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Command = Callable[..., Any]


def test_ours_keep_the_laws(fedkit: Command) -> None:
    result = fedkit("check", "strategy", "fedprox", "mu=0.3")
    assert result.exit_code == 0
    assert "strategy fedprox keeps" in result.stdout
    answer = json.loads(fedkit("check", "codec", "none", "--format", "json").stdout)
    assert answer["name"] == "none"
    assert answer["laws"]


def test_a_broken_law_is_named_and_exits_1(tmp_path: Path, fedkit: Command) -> None:
    file = tmp_path / "bad.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "import numpy as np\n"
        "from fedkit_strategies.fedavg import FedAvg\n\n"
        "@dataclass(frozen=True)\n"
        "class Noisy(FedAvg):\n"
        "    def step(self, model, state, total):\n"
        "        noise = np.random.default_rng()\n"
        "        return {n: np.asarray(a + a.dtype.type(noise.normal())) for n, a in model.items()}, state\n"
    )
    result = fedkit("check", "strategy", f"{file}:Noisy")
    assert result.exit_code == 1
    assert "step is pure" in result.stderr


def test_an_option_must_be_known_and_have_a_value(fedkit: Command) -> None:
    for option, text in (
        ("muu=1", "did you mean 'mu'"),
        ("mu", "must be key=value"),
        ("mu=x", "must be a number"),
    ):
        result = fedkit("check", "strategy", "fedprox", option)
        assert result.exit_code == 2
        assert text in result.stderr
