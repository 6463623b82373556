from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedkit.errors import ConfigError
from fedkit.history import Outcome
from fedkit.report.data import read_run


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


def test_a_run_in_progress_has_no_summary_and_half_a_line(make_run: Callable[..., Path]) -> None:
    folder = make_run(rounds=3, summary=False)
    whole = (folder / "rounds.jsonl").read_text()
    (folder / "rounds.jsonl").write_text(whole + whole[:50])
    run = read_run(folder)
    assert run.status == "running"
    assert len(run.rounds) == 3


def test_a_round_that_was_repeated_counts_once(make_run: Callable[..., Path]) -> None:
    folder = make_run(rounds=3)
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    (folder / "rounds.jsonl").write_text("\n".join([*lines, lines[1]]) + "\n")
    assert [r.round for r in read_run(folder).rounds] == [0, 1, 2]


def test_only_rounds_are_needed(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    for name in ("summary.json", "environment.json", "population.json", "scenario.toml"):
        (folder / name).unlink()
    run = read_run(folder)
    assert run.labels is None
    assert run.config == {}


def test_a_folder_that_is_no_run_names_one_nearby(make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run("runs/digits-3")
    with pytest.raises(ConfigError, match=r"not a run folder.*did you mean '.*digits-3'"):
        read_run(tmp_path / "runs")
    with pytest.raises(ConfigError, match="no such folder"):
        read_run(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="fedkit run"):
        read_run(tmp_path / "empty")


def test_a_run_without_rounds_tells_its_error(make_run: Callable[..., Path]) -> None:
    folder = make_run(status="failed", error="no client could be reached")
    (folder / "rounds.jsonl").write_text("")
    with pytest.raises(ConfigError, match="no finished round yet; no client could be reached"):
        read_run(folder)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rounds.jsonl", "{}\n", r"rounds\.jsonl, line 1: not a round record"),
        ("summary.json", "{", r"summary\.json: not JSON"),
        ("scenario.toml", "a = ", r"scenario\.toml: not TOML"),
        ("population.json", '{"classes": ["0", "1"], "clients": {"a": [1]}}', "clients.a: needs 2 counts"),
        (
            "population.json",
            '{"classes": ["0"], "clients": {"a": [1.5]}}',
            r"clients.a: needs 1 counts, not \[1.5\]",
        ),
        ("population.json", '{"classes": ["0"], "clients": {"a": [1e400]}}', "clients.a: needs 1 counts"),
        ("population.json", '{"classes": ["0"], "clients": {"a": -3}}', "clients.a: needs 1 counts, not -3"),
        ("population.json", '{"classes": 3, "clients": {"a": [1]}}', "classes is 3; the file is damaged"),
        ("population.json", '{"classes": ["0"], "clients": [1]}', r"clients is \[1\]; the file is damaged"),
        ("population.json", "[" * 20000, r"population\.json: not JSON: .*; the file is damaged"),
        ("summary.json", "[1]", r"summary\.json: holds \[1\], not an object"),
        ("summary.json", '{"initial": [1]}', r"summary\.json: initial is \[1\]; the file is damaged"),
        ("summary.json", '{"wall_seconds": "long"}', r"summary\.json: wall_seconds is 'long'"),
        ("summary.json", '{"parameters": ' + "9" * 400 + "}", r"summary\.json: parameters is an integer of"),
        ("summary.json", '{"status": {}}', r"summary\.json: status is {}"),
        ("environment.json", "3", r"environment\.json: holds 3, not an object"),
        ("scenario.toml", "a = " + "9" * 5000, r"scenario\.toml: not TOML: .*; the file is damaged"),
        ("scenario.toml", "a = " + "[" * 20000, r"scenario\.toml: not TOML: .*; the file is damaged"),
    ],
)
def test_damage_names_the_file(make_run: Callable[..., Path], name: str, text: str, message: str) -> None:
    folder = make_run()
    (folder / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_run(folder)


def test_the_current_folder_has_a_name_too(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_run("digits-5"))
    assert read_run(Path()).name == "digits-5"
