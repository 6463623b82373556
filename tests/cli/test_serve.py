"""`fedkit serve` and `fedkit identity`."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fedkit.keyfile import NAME, make_key, read_key
from fedkit.secagg.identity import SigningKey, Trust, fingerprint
from fedkit.secagg.rosterfile import read_trust, write_trust


def key(name: str) -> SigningKey:
    return SigningKey(hashlib.sha256(name.encode()).digest())


@pytest.fixture
def roster(tmp_path: Path) -> Path:
    path, server = tmp_path / "roster.toml", make_key(tmp_path / "agg").public
    write_trust(path, Trust.of_roster({f"c{i}": key(f"c{i}").public for i in range(4)}, server))
    return path


def test_an_identity_is_made_once_and_shown_again(fedkit: Any, tmp_path: Path) -> None:
    first = fedkit("identity", str(tmp_path / "ward 7"))
    assert first.exit_code == 0
    public = read_key(tmp_path / "ward 7").public
    assert f"fingerprint: {fingerprint(public)}\n" in first.stdout
    line = first.stdout.splitlines()[1].removeprefix("roster line: ")
    assert tomllib.loads(line) == {"ward 7": public.hex()}
    assert fedkit("identity", str(tmp_path / "ward 7")).stdout == first.stdout
    named = fedkit("identity", str(tmp_path / "ward 7"), "--name", "alice")
    assert f'alice = "{public.hex()}"' in named.stdout


def test_the_lines_make_a_roster(fedkit: Any, tmp_path: Path) -> None:
    lines = [
        fedkit("identity", str(tmp_path / name), "--name", name).stdout.splitlines()[1].partition(": ")[2]
        for name in ("server", "ward 7", "c.1")
    ]
    (tmp_path / "roster.toml").write_text("\n".join([lines[0], "[clients]", *lines[1:]]))
    assert set(read_trust(tmp_path / "roster.toml").roster) == {"ward 7", "c.1"}


def test_a_file_that_is_no_key(fedkit: Any, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("no key")
    made = fedkit("identity", str(tmp_path))
    assert made.exit_code == 2
    assert "not an unencrypted key in PEM: put a copy of it back" in made.stderr


@pytest.mark.parametrize(
    "address", ["8470", ":8470", "localhost:", "localhost:http", "localhost:65536", "h:-1"]
)
def test_an_address_that_is_none(fedkit: Any, folder: Path, roster: Path, address: str) -> None:
    made = fedkit("serve", "toy.toml", "--roster", str(roster), "--address", address)
    assert made.exit_code == 2
    assert f"--address {address!r}: HOST:PORT is due" in made.stderr


def test_a_roster_that_is_missing(fedkit: Any, folder: Path, tmp_path: Path) -> None:
    made = fedkit("serve", "toy.toml", "--roster", str(tmp_path / "none.toml"))
    assert made.exit_code == 2
    assert "a roster names the keys of server and clients" in made.stderr


def test_nobody_said_who_the_devices_are(fedkit: Any, folder: Path) -> None:
    made = fedkit("serve", "toy.toml")
    assert made.exit_code == 2
    assert "--roster FILE" in made.stderr
    assert "--ca ca.pem" in made.stderr


def test_without_the_extras_it_says_what_to_install(
    fedkit: Any, folder: Path, roster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in [name for name in sys.modules if name.startswith("fedkit.aggregator.")]:
        monkeypatch.delitem(sys.modules, name)
    made = fedkit("serve", "toy.toml", "--roster", str(roster))
    assert made.exit_code == 2
    assert "pip install 'fedkit[server]'" in made.stderr


def test_plain_http_is_not_served_to_others(fedkit: Any, folder: Path, roster: Path, tmp_path: Path) -> None:
    words = ["--roster", str(roster), "--dir", str(tmp_path / "agg"), "--insecure-http"]
    made = fedkit("serve", "toy.toml", *words, "--address", "0.0.0.0:0")
    assert (made.exit_code, "for this machine only" in made.stderr) == (2, True)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_sigterm_ends_it_and_the_same_words_continue(folder: Path, roster: Path, tmp_path: Path) -> None:
    words = ["serve", "toy.toml", "rounds.deadline=0.3", "rounds.count=3", "rounds.max_failures=99"]
    words += ["--roster", str(roster), "--dir", str(tmp_path / "agg"), "--address", "127.0.0.1:0"]
    command = [sys.executable, "-c", "from fedkit.cli import main; main()", *words]
    with subprocess.Popen([*command, "--patience", "60"], stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if "waiting for clients" in line:
                break
        running.send_signal(signal.SIGTERM)
        rest = running.stderr.read()
        assert running.wait(600) == 130, rest
    assert "interrupted; continue with: fedkit serve" in rest
    done = subprocess.run([*command, "--patience", "0"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 1, "three rounds without clients are no run"
    assert re.search(r"listening on https://127\.0\.0\.1:\d+", done.stderr)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_an_aggregator_that_stays_does_so_after_a_failed_run_too(
    fedkit: Any, folder: Path, roster: Path, tmp_path: Path
) -> None:
    words = ["serve", "toy.toml", "rounds.deadline=0.3", "rounds.max_failures=1", "--patience", "0", "--stay"]
    words += ["--roster", str(roster), "--dir", str(tmp_path / "agg"), "--address", "127.0.0.1:0"]
    command = [sys.executable, "-c", "import sys; from fedkit.cli import main; sys.exit(main())", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        said = ""
        for line in running.stderr:
            said += line
            if "devices are answered until SIGTERM" in line:
                break
        told = fedkit("status", "--dir", str(tmp_path / "agg"), "--format", "json").stdout
        running.send_signal(signal.SIGTERM)
        rest = running.stderr.read()
        assert running.wait(600) == 1, said + rest
    assert json.loads(told)["running"] is True
    assert json.loads(told)["run"]["ended"].startswith("failed: ")
    assert "failed" in said
    assert "interrupted" not in rest
