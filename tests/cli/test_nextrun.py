"""Whether `fedkit serve` goes on with the run in its folder, or with the next one."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from fedkit.aggregator.journal import Journal
from fedkit.cli.nextrun import launch
from fedkit.errors import ConfigError
from fedkit.scenario import read, to_toml


@pytest.fixture
def home(folder: Path, tmp_path: Path) -> Path:
    """The folder of an aggregator that has a run of toy.toml."""
    home = tmp_path / "agg"
    (home / "run").mkdir(parents=True)
    (home / "run" / "scenario.toml").write_text(to_toml(read("toy.toml", ["rounds.count=3"])))
    with closing(Journal(home / "journal")) as journal:
        journal.put(job_id="abc")
    return home


def ended(home: Path, status: str) -> None:
    (home / "run" / "summary.json").write_text(json.dumps({"status": status}))


@pytest.mark.parametrize("leave", [False, True])
def test_the_same_scenario_is_continued(home: Path, leave: bool) -> None:
    ended(home, "done")
    made = launch("toy.toml", ["rounds.count=5"], home, leave)
    assert (made.resume, made.folder, made.scenario.rounds.count) == (True, home / "run", 5)
    assert not (home / "run-1").exists()


@pytest.mark.parametrize("status", ["done", "failed"])
def test_after_a_run_that_is_over_comes_the_next(
    home: Path, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended(home, status)
    made = launch("toy.toml", ["train.lr=0.7"], home, False)
    assert (made.resume, made.scenario.train["lr"]) == (False, 0.7)
    assert (home / "run-1" / "scenario.toml").is_file()
    assert f"the run before is kept in {home / 'run-1'}" in capsys.readouterr().err
    with closing(Journal(home / "journal")) as journal:
        assert journal.meta("job_id") is None


@pytest.mark.parametrize("status", ["running", "interrupted", "torn"])
def test_a_run_that_is_not_over_is_left_on_purpose_only(home: Path, status: str) -> None:
    ended(home, status)
    if status == "torn":
        (home / "run" / "summary.json").write_text('{"status": "do')
    with pytest.raises(ConfigError, match=r"train\.lr differ\), and it is not over.*--next"):
        launch("toy.toml", ["train.lr=0.7"], home, False)
    assert (home / "run").exists()
    assert launch("toy.toml", ["train.lr=0.7"], home, True).resume is False
    assert (home / "run-1").exists()
