from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedkit.history import Outcome
from fedkit.report.reading import read_run


def test_reads_a_whole_run(make_run: Callable[..., Path]) -> None:
    run = read_run(make_run(rounds=5, clients=6, cohort=3, seed=7))
    assert [r.round for r in run.rounds] == [0, 1, 2, 3, 4]
    assert run.status == "done"
    assert run.metrics == ("accuracy", "loss")
    assert run.setting("strategy.name") == "fedavg"
    assert run.setting("seed") == "7"
    assert run.setting("nothing") == ""
    assert run.labels is not None
    assert run.labels.counts.shape == (6, 10)


def test_progress_adds_up(make_run: Callable[..., Path]) -> None:
    run = read_run(make_run(rounds=4))
    assert run.progress["rounds"] == [0, 1, 2, 3, 4]
    assert run.progress["bytes"][-1] == sum(run.bytes_up) + sum(run.bytes_down)
    assert run.progress["seconds"][0] == 0
    assert run.progress["seconds"][-1] == run.rounds[-1].virtual_end - run.rounds[0].virtual_start
    assert run.series("accuracy", "rounds")[0] == (0, 0.1)
    assert [x for x, _ in run.series("loss", "rounds", train=True)] == [1, 2, 3, 4]
    invited = sum(len(record.fates) for record in run.rounds)
    assert sum(run.total(outcome) for outcome in Outcome) == invited


def test_best_follows_the_direction_of_the_metric(make_run: Callable[..., Path]) -> None:
    run = read_run(make_run())
    assert run.best("accuracy") == max(run.series("accuracy", "rounds"), key=lambda point: point[1])
    assert run.best("loss") == min(run.series("loss", "rounds"), key=lambda point: point[1])
    assert run.best("no such metric") is None


def test_stop_names_the_main_metric_and_its_direction(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    with (folder / "scenario.toml").open("a") as file:
        file.write('[stop]\nmetric = "accuracy"\nbest = "min"\n')
    run = read_run(folder)
    assert run.lower_is_better("accuracy")
    assert run.metrics[0] == "accuracy"


def test_training_metrics_serve_where_nothing_was_evaluated(make_run: Callable[..., Path]) -> None:
    folder = make_run(rounds=3)
    lines = [
        json.loads(line) | {"metrics": {}} for line in (folder / "rounds.jsonl").read_text().splitlines()
    ]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").unlink()
    run = read_run(folder)
    assert run.metrics == ("loss",)
    assert run.values("loss", "rounds") == run.series("loss", "rounds", train=True) != []


def test_the_current_folder_has_a_name_too(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_run("digits-5"))
    assert read_run(Path()).name == "digits-5"
