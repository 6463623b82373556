"""What leaves the command when something goes wrong inside."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from fedkit.cli.door import last_event
from fedkit.cli.output import Format
from fedkit.errors import RunFailed
from fedkit.oneline import told

Command = Callable[..., Any]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "r/x"), "r/x: No space left on device; make room"),
        (OSError(errno.EROFS, "Read-only file system", "r"), "r: Read-only file system; give a place"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error; mend that and try again"),
        (OSError("odd"), "OSError: odd"),
        (SystemExit(0), "code that was loaded calls sys.exit(0)"),
        (SystemExit("x" * 5000), "code that was loaded calls sys.exit('xxx"),
        (RunFailed("every client failed"), "every client failed"),
        (KeyError("a"), "KeyError: 'a'"),
    ],
)
def test_every_error_is_told_in_a_line(error: BaseException, text: str) -> None:
    assert told(error).startswith(text)
    assert len(told(error)) < 200


@pytest.mark.parametrize("error", [RunFailed("a"), KeyError("a"), OSError("a"), SystemExit(0)])
def test_the_last_event_tells_the_error_and_lets_it_pass(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(error)), last_event(Format.json):
        raise error
    event = json.loads(capsys.readouterr().out)
    assert event == {"event": "failed", "error": told(error), "kind": type(error).__name__}
    with pytest.raises(type(error)), last_event(Format.text):
        raise error
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("leaving", [typer.Exit(130), BrokenPipeError(), KeyboardInterrupt()])
def test_leaving_on_purpose_is_no_failure(leaving: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(type(leaving)), last_event(Format.json):
        raise leaving
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "words",
    [
        ("new", "strategy", "quiet-rule", "--dir", "own.py"),
        ("new", "scenario", "mine", "--dir", "own.py/below"),
        ("compare", "r", "--out", "own.py/x.html"),
        ("compare", "r", "--out", "x" * 300),
        ("run", "toy.toml", "--out", "x" * 300),
        ("report", "x" * 300),
    ],
)
def test_a_place_that_cannot_be_is_told_without_a_traceback(
    folder: Path, fedkit: Command, words: tuple[str, ...]
) -> None:
    fedkit("run", "toy.toml", "--out", "r")
    result = fedkit(*words)
    assert result.exit_code in (1, 2)
    (line,) = result.stderr.splitlines()
    assert line.startswith("fedkit: ")
    assert ";" in line or "cannot be" in line


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_told(folder: Path, fedkit: Command) -> None:
    (folder / "locked").mkdir(mode=0o500)
    result = fedkit("run", "toy.toml", "--out", "locked/r")
    assert result.exit_code in (1, 2)
    assert "Permission denied" in result.stderr
