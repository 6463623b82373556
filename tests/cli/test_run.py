"""`fedkit run`: folders, formats, seeds, resuming, exit codes."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedkit.runfolder import RunFolder

Command = Callable[..., Any]
FEDKIT = [sys.executable, "-c", "from fedkit.cli import main; main()"]


def _process(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*FEDKIT, *words], capture_output=True, text=True, timeout=600, check=False)


def test_a_run_goes_into_a_new_folder_each_time_and_says_where_the_report_is(
    folder: Path, fedkit: Command
) -> None:
    for number in (1, 2):
        result = fedkit("run", "toy.toml")
        assert result.exit_code == 0
        assert f"report: runs/toy-{number}/report.html" in result.stdout
        assert (folder / f"runs/toy-{number}/report.html").is_file()
        assert "round 2/2" in result.stderr
    assert "accuracy" in result.stdout


def test_json_is_one_object_per_line_and_ends_with_the_summary(folder: Path, fedkit: Command) -> None:
    result = fedkit("run", "toy.toml", "--format", "json", "--out", "r")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [e["event"] for e in events if e["event"] not in ("replied", "evaluated")] == [
        "run_started",
        "round_started",
        "round_ended",
        "round_started",
        "round_ended",
        "run_ended",
        "summary",
    ]
    assert sum(e["event"] == "replied" for e in events) == 8
    assert events[-1]["model_sha256"] == json.loads((folder / "r/summary.json").read_text())["model_sha256"]


def test_seeds_run_side_by_side_and_are_compared(folder: Path, fedkit: Command) -> None:
    result = fedkit("run", "toy.toml", "seed=5", "--seeds", "2", "--out", "many")
    assert result.exit_code == 0
    assert sorted(path.name for path in (folder / "many").iterdir()) == [
        "compare.csv",
        "compare.html",
        "seed-5",
        "seed-6",
    ]
    assert "2 seeds" in result.stdout
    result = fedkit("run", "toy.toml", "seed=5", "--seeds", "2", "--out", "again", "--format", "json")
    last = json.loads(result.stdout.splitlines()[-1])
    first = json.loads((folder / "many/seed-6/summary.json").read_text())
    assert [run["seed"] for run in last["runs"]] == [5, 6]
    assert last["runs"][1]["model_sha256"] == first["model_sha256"]


def test_seeds_that_were_interrupted_go_on(folder: Path, fedkit: Command) -> None:
    fedkit("run", "toy.toml", "seed=1", "--out", "many/seed-1")
    words = ("run", "toy.toml", "seed=1", "--seeds", "2", "--out", "many")
    assert fedkit(*words).exit_code == 2
    assert fedkit(*words, "--resume").exit_code == 0
    assert (folder / "many/seed-2/summary.json").is_file()


def test_an_existing_run_is_never_overwritten(folder: Path, fedkit: Command) -> None:
    assert fedkit("run", "toy.toml", "--out", "r").exit_code == 0
    before = (folder / "r/summary.json").read_bytes()
    result = fedkit("run", "toy.toml", "--out", "r")
    assert result.exit_code == 2
    assert "r holds a run: --resume continues it" in result.stderr
    assert (folder / "r/summary.json").read_bytes() == before


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_with_other_things_in_it_is_refused(folder: Path, fedkit: Command, resume: bool) -> None:
    (folder / "mine").mkdir()
    (folder / "mine/thesis.txt").write_text("x")
    result = fedkit("run", "toy.toml", "--out", "mine", *(["--resume"] if resume else []))
    assert result.exit_code == 2
    assert "mine is not empty and holds no run" in result.stderr
    assert [path.name for path in (folder / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("words", [("runs/toy-1",), ("toy.toml",), ("toy.toml", "--out", "runs/toy-1")])
def test_resume_by_folder_by_scenario_and_by_out(
    folder: Path, fedkit: Command, words: tuple[str, ...]
) -> None:
    fedkit("run", "toy.toml")
    result = fedkit("run", words[0], "rounds.count=4", *words[1:], "--resume")
    assert result.exit_code == 0
    assert json.loads((folder / "runs/toy-1/summary.json").read_text())["rounds"] == 4
    assert not (folder / "runs/toy-2").exists()


def test_resume_refuses_what_would_make_another_run(folder: Path, fedkit: Command) -> None:
    fedkit("run", "toy.toml", "--out", "r")
    result = fedkit("run", "r", "train.lr=1", "--resume")
    assert result.exit_code == 2
    assert "override 'train.lr=1': [train] lr: a run that is resumed keeps its settings" in result.stderr
    assert fedkit("run", "toy.toml", "--resume").exit_code == 1


def test_a_run_that_failed_too_often_goes_on_when_more_is_allowed(folder: Path, fedkit: Command) -> None:
    assert fedkit("run", "toy.toml", "rounds.count=9", "devices.drop=1", "--out", "r").exit_code == 1
    again = fedkit("run", "r", "--resume")
    assert "3 rounds in a row have failed" in again.stderr
    more = fedkit("run", "r", "rounds.max_failures=5", "--resume")
    assert (more.exit_code, "5 rounds in a row have failed" in more.stderr) == (1, True), more.stderr


def test_a_resumed_run_says_where_it_stands(folder: Path, fedkit: Command) -> None:
    assert "resuming" not in fedkit("run", "toy.toml", "--out", "r").stderr
    for words in (("r",), ("toy.toml", "--out", "r", "--format", "json")):
        assert "resuming r: 2 of 2 rounds are done" in fedkit("run", *words, "--resume").stderr


def test_resume_refuses_another_scenario_than_that_of_the_run(folder: Path, fedkit: Command) -> None:
    fedkit("run", "toy.toml", "--out", "r")
    text = (folder / "toy.toml").read_text()
    (folder / "toy.toml").write_text(text.replace("count = 2", "count = 3").replace("a toy", "the toy"))
    assert fedkit("run", "toy.toml", "--out", "r", "--resume").exit_code == 0
    (folder / "toy.toml").write_text(text.replace("lr = 0.5", "lr = 1.0\nmomentum = 0.5"))
    result = fedkit("run", "toy.toml", "--out", "r", "--resume")
    assert result.exit_code == 2
    assert "r holds a run with other settings than toy.toml: train.lr, train.momentum differ" in result.stderr
    assert "fedkit run r --resume" in result.stderr
    assert fedkit("run", "r", "--resume").exit_code == 0


@pytest.mark.parametrize(
    ("folder_name", "advice"),
    [
        ("many", "continue seeds with: fedkit run SCENARIO --seeds N --out many --resume, or one run with: "),
        (
            "python",
            "holds a run that Python started (it has no scenario.toml): continue it there, with fedkit.run",
        ),
        ("empty", "empty holds no run to resume"),
        ("runs/toy-11", "there is no folder 'runs/toy-11' to resume; did you mean 'runs/toy-1'?"),
    ],
)
def test_what_cannot_be_resumed_says_what_can(
    folder: Path, fedkit: Command, folder_name: str, advice: str
) -> None:
    fedkit("run", "toy.toml", "--out", "runs/toy-1")
    fedkit("run", "toy.toml", "--out", "many/seed-0")
    fedkit("run", "toy.toml", "--out", "python")
    (folder / "python/scenario.toml").unlink()
    (folder / "empty").mkdir()
    result = fedkit("run", folder_name, "--resume")
    assert result.exit_code == 1
    assert advice in result.stderr


def test_several_seeds_do_not_go_into_the_folder_of_one_run(folder: Path, fedkit: Command) -> None:
    fedkit("run", "toy.toml", "--out", "r")
    result = fedkit("run", "toy.toml", "--seeds", "2", "--out", "r", "--resume")
    assert result.exit_code == 2
    assert "r holds one run, not the runs of several seeds" in result.stderr


def test_a_process_that_does_not_get_the_folder_leaves_it_alone(folder: Path, fedkit: Command) -> None:
    fedkit("run", "toy.toml", "--out", "r")
    (folder / "r/report.html").write_text("theirs")
    other = RunFolder(folder / "r", resume=True)
    result = fedkit("run", "r", "rounds.count=3", "--resume")
    other.close()
    assert result.exit_code == 2
    assert "in use by another process" in result.stderr
    assert "report:" not in result.stderr
    assert (folder / "r/report.html").read_text() == "theirs"


def test_updates_that_were_carried_in_are_told(folder: Path, fedkit: Command) -> None:
    slow = ("rounds.late=carry", "devices.speed=20", "devices.spread=0.6", "rounds.deadline=0.5")
    result = fedkit("run", "toy.toml", "rounds.count=6", *slow, "--out", "r")
    assert re.search(r"clients .* \d+ late \(\d+ carried in\)", result.stdout)


def test_resume_of_a_folder_that_is_not_there_starts_the_run(folder: Path, fedkit: Command) -> None:
    assert fedkit("run", "toy.toml", "--out", "fresh", "--resume").exit_code == 0
    assert json.loads((folder / "fresh/summary.json").read_text())["rounds"] == 2


def test_a_wrong_setting_exits_2_with_one_line_and_leaves_no_folder(folder: Path) -> None:
    done = _process("run", "toy.toml", "rounds.cohrt=3")
    assert done.returncode == 2
    expected = "fedkit: override 'rounds.cohrt=3': [rounds] cohrt: unknown key; did you mean 'cohort'?\n"
    assert (done.stdout, done.stderr) == ("", expected)
    assert not (folder / "runs").exists()


def test_a_failed_run_exits_1_with_the_cause_and_its_report(folder: Path) -> None:
    done = _process("run", "toy.toml", "workload_options.fail=true", "--out", "r", "--format", "json")
    assert done.returncode == 1
    assert "no_data" in done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["event"], last["kind"]) == ("failed", "RunFailed")
    assert last["error"] in done.stderr
    assert json.loads((folder / "r/summary.json").read_text())["status"] == "failed"
    assert (folder / "r/report.html").is_file()


def test_an_unexpected_exception_keeps_its_traceback(folder: Path) -> None:
    done = _process("run", "toy.toml", "workload_options.end=bug", "--out", "r")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "own.py" in done.stderr
    assert "ZeroDivisionError: a bug of the user" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_exits_130_and_the_words_it_gives_continue_the_run(folder: Path) -> None:
    words = ["run", "toy.toml", "rounds.count=200", "workload_options.sleep=0.05", "--out", "r"]
    process = subprocess.Popen([*FEDKIT, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    rounds = folder / "r/rounds.jsonl"
    while not (rounds.is_file() and rounds.stat().st_size) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "fedkit: interrupted; continue with: fedkit run r --resume" in errors
    assert "Traceback" not in errors
    done = len((folder / "r/rounds.jsonl").read_text().splitlines())
    assert 0 < done < 200
    again = _process("run", "r", f"rounds.count={done + 1}", "--resume")
    assert again.returncode == 0, again.stderr
    assert json.loads((folder / "r/summary.json").read_text())["rounds"] == done + 1


def test_tensorboard_events_are_in_the_run_folder(folder: Path, fedkit: Command) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("tensorboard")
    assert fedkit("run", "toy.toml", "--out", "r", "--tensorboard").exit_code == 0
    assert list((folder / "r/tensorboard").glob("events.*"))


def test_help_imports_no_heavy_library() -> None:
    script = (
        "import sys; from fedkit.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print('heavy:', sorted({'torch', 'sklearn', 'pandas', 'scipy', 'tensorboard'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("heavy: []\n")


@pytest.mark.parametrize("end", ["exit", "exit later"])
def test_code_that_exits_with_0_does_not_make_a_run_succeed(folder: Path, fedkit: Command, end: str) -> None:
    result = fedkit("run", "toy.toml", f"end={end}", "--out", "r", "--format", "json")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("fedkit: ")
    last = json.loads(result.stdout.splitlines()[-1])
    assert last["event"] == "failed"
    assert "exit" in last["error"].lower()


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (("toy.toml", "end=bug"), 1, "ZeroDivisionError"),
        (("toy.toml", "rounds.cont=1"), 2, "ConfigError"),
        (("toy.toml", "fail=true"), 1, "RunFailed"),
        (("toy.toml", "--out", "own.py/below"), 2, "ConfigError"),
    ],
)
def test_json_ends_with_an_event_whatever_ends_the_run(
    folder: Path, words: tuple[str, ...], code: int, kind: str
) -> None:
    done = _process("run", *words, "--format", "json")
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["event"], last["kind"]) == ("failed", kind)
    assert done.returncode == code


def test_a_report_that_cannot_be_written_costs_neither_success_nor_the_real_error(
    folder: Path, fedkit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("fedkit.report.markup._replace", full)
    result = fedkit("run", "toy.toml", "--out", "r")
    assert result.exit_code == 0
    said = [line for line in result.stderr.splitlines() if "report" in line]
    assert said == [
        "fedkit: the report could not be written: r/report.html: No space left on device; make room on "
        "the disk and try again; then: fedkit report r"
    ]
    assert "report" not in result.stdout
    assert (folder / "r/summary.json").is_file()
    failed = fedkit("run", "toy.toml", "fail=true", "--out", "f")
    assert failed.exit_code == 1
    assert "is gone" in failed.stderr.splitlines()[-1]
    again = fedkit("report", "r")
    assert (again.exit_code, len(again.stderr.splitlines())) == (1, 1)


def test_a_folder_whose_name_is_markup_is_shown_as_it_is(folder: Path, fedkit: Command) -> None:
    result = fedkit("run", "toy.toml", "--out", "[red]x[bold] :smile:")
    assert result.exit_code == 0
    assert "[red]x[bold] :smile:" in result.stdout
    assert "[red]x[bold] :smile: round 2/2" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="pipes break otherwise there")
def test_a_reader_that_has_seen_enough_ends_the_run_without_a_traceback(folder: Path) -> None:
    words = ["run", "toy.toml", "rounds.count=500", "--format", "json"]
    process = subprocess.Popen([*FEDKIT, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["event"] == "run_started"
    process.stdout.close()
    assert process.wait(600) == 1
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
