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
from fedkit.secagg.identity import SigningKey, Trust
from fedkit.secagg.rosterfile import write_trust

WORDS = ("digits", "population.clients=3", "rounds.cohort=3", "rounds.quorum=1")
_FEDKIT = "import sys; from fedkit.cli import main; sys.exit(main())"


def roster(folder: Path, **keys: SigningKey) -> list[str]:
    """A roster of the aggregator, of these clients and of another."""
    known = {name: key.public for name, key in {**keys, "other": SigningKey(bytes(32))}.items()}
    write_trust(folder / "roster.toml", Trust.of_roster(known, SigningKey(bytes(range(32))).public))
    return ["--roster", str(folder / "roster.toml")]


def test_a_key_that_is_not_in_the_roster_is_told_its_line(tmp_path: Path) -> None:
    made_key = make_key(tmp_path / "c000")
    words = ["--dir", str(tmp_path / "c000"), *roster(tmp_path)]
    made = CliRunner().invoke(app, ["client", "https://h:1", *WORDS, *words])
    assert made.exit_code == 2
    assert f'its line is c000 = "{made_key.public.hex()}"' in made.stderr


def test_without_a_key_it_says_how_to_make_one(tmp_path: Path) -> None:
    words = ["--dir", str(tmp_path / "ward"), *roster(tmp_path)]
    made = CliRunner().invoke(app, ["client", "https://h:1", *WORDS, *words])
    assert made.exit_code == 2
    assert f"make a key with: fedkit identity {tmp_path / 'ward'}" in made.stderr


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    words = ["--dir", str(tmp_path / "c000"), *roster(tmp_path, c000=make_key(tmp_path / "c000"))]
    made = CliRunner().invoke(app, ["client", "h:1", *WORDS, *words])
    assert made.exit_code == 2
    assert "write https://HOST:PORT" in made.stderr


def test_plain_http_is_asked_for_by_name(tmp_path: Path) -> None:
    words = ["--dir", str(tmp_path / "c000"), *roster(tmp_path, c000=make_key(tmp_path / "c000"))]
    made = CliRunner().invoke(app, ["client", "http://127.0.0.1:1", *WORDS, *words])
    assert (made.exit_code, "is not encrypted" in made.stderr) == (2, True)
    elsewhere = CliRunner().invoke(app, ["client", "http://h:1", *WORDS, *words, "--insecure-http"])
    assert (elsewhere.exit_code, "for this machine only" in elsewhere.stderr) == (2, True)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_while_nobody_answers(tmp_path: Path, how: signal.Signals) -> None:
    words = ["--dir", str(tmp_path / "c000"), *roster(tmp_path, c000=make_key(tmp_path / "c000"))]
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        command = [sys.executable, "-c", _FEDKIT, "client"]
        address = f"https://127.0.0.1:{nobody.getsockname()[1]}"
        process = subprocess.Popen([*command, address, *WORDS, *words], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        with process, process.stderr as said:
            first = said.readline()
            process.send_signal(how)
            rest = said.read()
            assert process.wait(30) == 0
    assert "ConnectError" in first
    assert "stopped; what is finished is safe" in rest
