from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedkit.errors import ConfigError
from fedkit.report.reading import read_run


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
