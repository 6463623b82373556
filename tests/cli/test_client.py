"""`fedkit client`: what it needs, and how it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

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


def told(*words: str, code: int = 2, folder: Path | None = None) -> str:
    """What `fedkit client` says before it ends."""
    done = subprocess.run(
        [sys.executable, "-c", _FEDKIT, "client", *words], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == code, done.stderr
    return done.stderr


def test_a_key_that_is_not_in_the_roster_is_told_its_line(tmp_path: Path) -> None:
    made_key = make_key(tmp_path / "c000")
    words = ["--dir", str(tmp_path / "c000"), *roster(tmp_path)]
    said = told("https://h:1", *WORDS, *words)
    assert f'its line is c000 = "{made_key.public.hex()}"' in said


def test_without_a_key_it_says_how_to_make_one(tmp_path: Path) -> None:
    words = ["--dir", str(tmp_path / "ward"), *roster(tmp_path)]
    assert f"make a key with: fedkit identity {tmp_path / 'ward'}" in told("https://h:1", *WORDS, *words)


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    words = ["--dir", str(tmp_path / "c000"), *roster(tmp_path, c000=make_key(tmp_path / "c000"))]
    assert "write https://HOST:PORT" in told("h:1", *WORDS, *words)


def test_files_of_a_device_that_are_wrong_say_how_to_mend_them(tmp_path: Path) -> None:
    device = tmp_path / "c000"
    make_key(device)
    (device / "aggregator.toml").write_text('address = "https://h:1"\nclient = "c000"\n')
    write_trust(
        device / "trust.toml", Trust.of_ca(SigningKey(bytes(32)).public, SigningKey(bytes(range(32))).public)
    )
    none = ["--roster", str(tmp_path / "none.toml")]
    (device / "certificate.pem").write_text("garbage")
    (device / "voucher").write_text("00")
    for words in ([], ["https://h:2", *none]):
        assert "certificate.pem or voucher is damaged" in told(*words, *WORDS, "--dir", str(device))
    assert "https://h:1" in (device / "aggregator.toml").read_text(), "it moves with what is whole"
    (device / "trust.toml").write_text("garbage")
    assert "trust.toml: Expected '='" in (said := told(*WORDS, "--dir", str(device)))
    assert "join again with a new invite" in said


def test_plain_http_is_asked_for_by_name(tmp_path: Path) -> None:
    words = ["--dir", str(tmp_path / "c000"), *roster(tmp_path, c000=make_key(tmp_path / "c000"))]
    assert "is not encrypted" in told("http://127.0.0.1:1", *WORDS, *words)
    assert "for this machine only" in told("http://h:1", *WORDS, *words, "--insecure-http")


WORKLOAD = """
import numpy as np
from fedkit.errors import ConfigError
from fedkit_clients import NumpyWorkload, Softmax

def hospital(data: str, rows: int = 4):
    if data == "gone.npz":
        raise ConfigError(data + " is gone")
    return NumpyWorkload(Softmax(2, 2), {"c000": (np.ones((rows, 2), np.float32), np.zeros(rows, np.int64))})
"""


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--workload", "ward:hospital", "row=5", "data=x"], "row: unknown key; did you mean 'rows'?"),
        (["--workload", "ward:hospital"], "data: is missing"),
        (["--workload", "ward:hospital", "--data", "gone.npz"], "gone.npz is gone"),
        (["digits", "--data", "x.npz"], "[workload_options] data: unknown key"),
        (["--workload", "ward:hospitals", "data=x"], "has no 'hospitals'; did you mean 'hospital'?"),
        (["--workload", "wards:hospital"], "wards cannot be imported"),
        (["--workload", "digit"], "did you mean 'digits'?"),
        (["--workload", "ward:hospital", "data"], "are written KEY=VALUE"),
        (["--workload", "ward:hospital", "data=x", "--policy", "p.toml"], "p.toml: there is no such file"),
        ([], "a scenario, or --workload"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, words: list[str], text: str) -> None:
    (tmp_path / "ward.py").write_text(WORKLOAD)
    known = ["--dir", "c000", *roster(tmp_path, c000=make_key(tmp_path / "c000"))]
    assert text in told("https://h:1", *words, *known, folder=tmp_path)


def test_a_policy_that_is_none_is_told_with_its_line(tmp_path: Path) -> None:
    words = ["--dir", str(tmp_path / "c000"), *roster(tmp_path, c000=make_key(tmp_path / "c000"))]
    (tmp_path / "c000" / "policy.toml").write_text('n_min = 5\nsecag = "off"\n')
    said = told("https://h:1", *WORDS, *words)
    assert "policy.toml:2: secag: unknown key; did you mean 'secagg'?" in said


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
            assert process.wait(600) == 0
    assert "Connection refused" in first
    assert "stopped; what is finished is safe" in rest
