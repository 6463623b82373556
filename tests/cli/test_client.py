"""`fedkit client`: what it needs, and how it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedkit.cli import app
from fedkit.keyfile import make_key

WORDS = ("digits", "population.clients=3", "rounds.cohort=3", "rounds.quorum=1")
_FEDKIT = "import sys; from fedkit.cli import main; sys.exit(main())"


def test_without_a_key_it_says_how_to_make_one(tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["client", "http://h:1", *WORDS, "--dir", str(tmp_path / "ward")])
    assert made.exit_code == 2
    assert f"make a key with: fedkit identity {tmp_path / 'ward'}" in made.stderr


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    make_key(tmp_path)
    made = CliRunner().invoke(app, ["client", "h:1", *WORDS, "--dir", str(tmp_path)])
    assert made.exit_code == 2
    assert "write http://HOST:PORT" in made.stderr


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_while_nobody_answers(tmp_path: Path, how: signal.Signals) -> None:
    make_key(tmp_path / "c000")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        command = [sys.executable, "-c", _FEDKIT, "client"]
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        process = subprocess.Popen(
            [*command, address, *WORDS, "--dir", str(tmp_path / "c000")], stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        with process, process.stderr as said:
            first = said.readline()
            process.send_signal(how)
            rest = said.read()
            assert process.wait(30) == 0
    assert "ConnectError" in first
    assert "stopped; what is finished is safe" in rest
