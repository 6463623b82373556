"""`run`: what it refuses, what it makes of its arguments, and what cannot change its result."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkit import Grid, RoundPolicy, run
from fedkit.config import Devices, Links
from fedkit.errors import ConfigError, PluginError, RunFailed
from fedkit.history import Outcome
from fedkit.rounds import Result, default_grid
from fedkit.tensors import digest
from fedkit_clients import NumpyWorkload, Softmax
from fedkit_clients.data import Clients
from fedkit_simulations.engine import Simulation


def data(clients: int = 20) -> dict[str, tuple[Any, Any]]:
    draws = np.random.default_rng(0)
    truth = draws.normal(size=(4, 3))
    made = {}
    for i in range(clients):
        x = draws.normal(size=(5 + i % 7, 4)).astype(np.float32)
        made[f"c{i:02d}"] = (x, (x @ truth).argmax(axis=1).astype(np.int64))
    return made


def workload(clients: Clients | None = None) -> NumpyWorkload:
    made = data() if clients is None else clients
    x = np.concatenate([made[c][0] for c in sorted(made)])
    y = np.concatenate([made[c][1] for c in sorted(made)])
    return NumpyWorkload(Softmax(4, 3), made, test=(x, y))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"policy": RoundPolicy(cohort=0)}, r"rounds\.cohort = 0"),
        ({"policy": RoundPolicy(deadline=-1)}, r"rounds\.deadline = -1"),
        ({"rounds": -1}, "rounds = -1"),
        ({"evaluate_every": 0}, "evaluate_every = 0"),
        (
            {"policy": RoundPolicy(late="carry"), "evaluate_on": "clients"},
            r"rounds\.late = 'carry' cannot be combined with rounds\.evaluate_on = 'clients'",
        ),
        ({"strategy": "fedavgg"}, "unknown strategy 'fedavgg'; did you mean 'fedavg'"),
        ({"codec_up": "nine"}, "unknown codec 'nine'"),
    ],
)
def test_arguments_that_cannot_work_are_refused_before_anything_is_done(
    arguments: dict[str, Any], says: str, tmp_path: Any
) -> None:
    given = {"strategy": "fedavg", "rounds": 1, **arguments}
    with pytest.raises(ConfigError, match=says) as caught:
        run(workload=workload(), out=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()
    assert isinstance(caught.value, PluginError) == says.startswith("unknown")


def test_a_workload_without_clients_is_refused() -> None:
    empty = NumpyWorkload(Softmax(4, 3), {})
    with pytest.raises(ConfigError, match="no clients"):
        run("fedavg", empty, rounds=1)


def test_a_run_learns_and_says_so() -> None:
    result = run("fedavg", workload(), rounds=15, train={"epochs": 3, "batch": 4, "lr": 0.2})
    assert result.history.initial["accuracy"] < 0.6
    assert result.summary["metrics"]["accuracy"] > 0.9
    assert result.summary["model_sha256"] == digest(result.model)
    assert result.folder is None


def test_no_rounds_are_an_evaluation() -> None:
    result = run("fedavg", workload(), rounds=0)
    assert result.history.rounds == []
    assert set(result.history.initial) == {"accuracy", "loss"}


def fates(result: Result) -> list[dict[str, str]]:
    return [{c: f.outcome.value for c, f in sorted(r.fates.items())} for r in result.history.rounds]


def hard(work: NumpyWorkload, seed: int = 0) -> Result:
    """Everything at once: over-selection, crashes, slow links, late updates, clients that come and go."""
    links = Links(profile="3g", spread=1.0)
    devices = Devices(
        profile="custom",
        speed=8,
        spread=1.5,
        drop=0.3,
        availability="markov",
        on_seconds=20,
        off_seconds=10,
    )
    policy = RoundPolicy(cohort=6, over_select=1.3, quorum=2, deadline=2.0, late="carry")
    return run(
        "fedavg",
        work,
        Simulation(work, links=links, devices=devices, seed=seed),
        rounds=12,
        policy=policy,
        seed=seed,
        train={"epochs": 2, "batch": 4},
    )


def test_the_order_in_which_clients_are_given_changes_nothing() -> None:
    made = data()
    shuffled = list(made)
    random.Random(1).shuffle(shuffled)
    a, b = hard(workload(made)), hard(workload({name: made[name] for name in shuffled}))
    assert digest(a.model) == digest(b.model)
    assert fates(a) == fates(b)
    assert [r.to_json().split('"wall')[0] for r in a.history.rounds] == [
        r.to_json().split('"wall')[0] for r in b.history.rounds
    ]


def test_one_seed_fixes_everything_and_another_changes_it() -> None:
    a, b, c = hard(workload()), hard(workload()), hard(workload(), seed=1)
    assert (digest(a.model), fates(a)) == (digest(b.model), fates(b))
    assert digest(a.model) != digest(c.model)
    assert fates(a) != fates(c)


def test_all_of_that_did_happen() -> None:
    summary = hard(workload()).summary
    for outcome in ("counted", "lost", "late", "unwanted", "carried"):
        assert summary[f"clients_{outcome}"] > 0, outcome


def test_with_half_of_the_clients_dropping_each_round_training_completes_and_nobody_is_unaccounted() -> None:
    work = workload()
    federation = Simulation(work, devices=Devices(drop=0.5))
    policy = RoundPolicy(cohort=10, quorum=1, deadline=30.0)
    result = run("fedavg", work, federation, rounds=20, policy=policy, train={"epochs": 3, "lr": 0.2})
    assert len(result.history.rounds) == 20
    for record in result.history.rounds:
        assert len(record.fates) == 10
        assert record.count(Outcome.counted) + record.count(Outcome.lost) == 10
    lost = result.summary["clients_lost"]
    assert 70 < lost < 130  # 100 expected, standard deviation 7
    assert result.summary["metrics"]["accuracy"] > 0.9


def test_codec_none_is_the_identity() -> None:
    """Both by its name and as an instance, in both directions."""
    from fedkit.codecs.none import Plain

    work = workload()
    plain = run("fedavg", work, rounds=3, codec_up=Plain(), codec_down=Plain())
    assert digest(plain.model) == digest(run("fedavg", work, rounds=3).model)


def test_bytes_are_counted_both_ways() -> None:
    result = run("fedavg", workload(), rounds=2)
    record = result.history.rounds[0]
    assert record.bytes_up_float32 == 20 * 15 * 4
    assert record.bytes_up_float32 < record.bytes_up < record.bytes_up_float32 + 20 * 400
    assert record.bytes_up_float32 < record.bytes_down < record.bytes_up_float32 + 20 * 1000
    assert result.summary["bytes_up"] == sum(r.bytes_up for r in result.history.rounds)


def test_what_a_codec_would_lose_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    run("fedavg", workload(), rounds=2, codec_up="sign", policy=RoundPolicy(cohort=5))
    (said,) = [text for text in caplog.messages if text.startswith("codec.")]
    assert said.startswith("codec.up: 'sign' is biased and there is no error feedback")


def test_an_exemption_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"codec.up: exempt: 'weigth' matches no tensor; did you mean"):
        run("fedavg", workload(), rounds=1, codec_up="tensors:exempt=weigth|int8")
    with pytest.raises(ConfigError, match=r"codec.down: exempt: 'x\*' matches no tensor; known: "):
        run("fedavg", workload(), rounds=1, codec_down="tensors:exempt=x*|int8")


def test_the_default_grid_has_room_for_everyone() -> None:
    work = workload()
    assert default_grid(work, RoundPolicy()) == Grid(16.0, 256.0, 4096)
    many = NumpyWorkload(Softmax(4, 3), {f"c{i}": data(1)["c00"] for i in range(5000)})
    assert default_grid(many, RoundPolicy()).n_max == 8192
    assert default_grid(many, RoundPolicy(late="carry", carry_rounds=3)).n_max == 32768
    assert default_grid(many, RoundPolicy(carry_rounds=3)).n_max == 8192


@pytest.mark.parametrize("told", ["a", None, math.nan, math.inf, 10**400, -1.0, 0, 1 + 1j, np.ones(2)])
def test_a_largest_weight_that_is_none_is_refused_before_the_run(told: Any) -> None:
    work = workload()
    work.max_weight = told
    with pytest.raises(ConfigError, match=r"the workload's max_weight is .* it must be a positive number"):
        run("fedavg", work, rounds=1)
    assert default_grid(work, RoundPolicy(), max_weight=4.0).max_weight == 4.0


def test_a_run_without_a_good_round_has_failed(tmp_path: Path) -> None:
    work = workload()
    policy = RoundPolicy(cohort=2, deadline=1.0, max_failures=9)
    gone = Simulation(work, devices=Devices(drop=1.0))
    with pytest.raises(RunFailed, match="none of 2 rounds succeeded; the last failed because 0 of 2"):
        run("fedavg", work, gone, rounds=2, policy=policy, out=tmp_path / "run")
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"epoch": 3}, r"train\.epoch: unknown key; did you mean 'epochs'"),
        ({"optimizer": "adm"}, "optimizer"),
        ({"lr": -1.0}, "lr"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_training_settings_are_checked_before_round_0(train: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run("fedavg", workload(), rounds=1, train=train)


@pytest.mark.parametrize(("strategy", "work"), [(3, workload()), ("fedavg", None)])
def test_what_is_no_strategy_or_workload_is_said_so(strategy: Any, work: Any) -> None:
    with pytest.raises(ConfigError, match=r"(strategy is a int: give a|workload is None, which has no init)"):
        run(strategy, work, rounds=1)
