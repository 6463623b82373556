"""The file that says who is who."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedkit.errors import ConfigError, DataError
from fedkit.secagg.identity import SigningKey, Trust
from fedkit.secagg.rosterfile import read_trust, write_trust


def key(mark: int) -> SigningKey:
    return SigningKey(bytes([mark]) * 32)


SERVER = key(9).public
ROSTER = Trust.of_roster({"a": key(1).public, "b.c": key(2).public}, SERVER)


@pytest.mark.parametrize("trust", [ROSTER, Trust.of_ca(key(7).public, SERVER)], ids=["roster", "ca"])
def test_a_file_there_and_back(tmp_path: Path, trust: Trust) -> None:
    write_trust(tmp_path / "roster.toml", trust)
    assert read_trust(tmp_path / "roster.toml") == trust


def test_no_file_without_identities(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no key to pin"):
        write_trust(tmp_path / "roster.toml", Trust.none())


A, B = key(1).public.hex(), key(2).public.hex()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (f'sever = "{B}"', r":1: sever: unknown key; did you mean 'server'"),
        (f'[clients]\na = "{A}"', r"server: missing"),
        (f'server = "{B}"', r"either \[clients\] or a ca"),
        (f'server = "{B}"\nca = "{A}"\n[clients]\na = "{A}"', r"either \[clients\] or a ca"),
        (f'server = "{B}"\n[clients]\na = "{A}"\na = "{A}"\n', r"line 4"),
        (f'server = "{B}"\n[clients]\na = "abc"', r":3: clients.a: an Ed25519 public key"),
        (f'server = "{B}"\n[clients]\na = 5', r":3: clients.a"),
        (f'server = "{B}"\n[clients]', r":2: clients: a table"),
        (f'server = "{B}"\n[clients]\na = "{A}"\nb = "{A}"', r":2: clients: .*same key"),
        (f'server = "{B}"\nca = "{B}"', r":2: ca: .*same key"),
        (f'server = "{"01" + "00" * 31}"\n[clients]\na = "{A}"', r"the server': a key of low order"),
        (f'server = "{B}"\n[clients]\na = "{"ff" * 32}"', r":2: clients: 'a': .*not in its one spelling"),
        (f'server = "{B}"\n[clients]\na = "{"02" + "00" * 31}"', r":2: clients: 'a': no point of the curve"),
        (f'server = "{B}"\n[clients]\n{"x" * 256} = "{A}"', r"a client id has 1 to 255 bytes"),
        ("server = ", r"roster.toml: "),
    ],
)
def test_a_bad_file_says_where(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "roster.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=error):
        read_trust(path)


def test_a_missing_file_says_what_it_is_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names the keys"):
        read_trust(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_trust(tmp_path / "bad.toml")


def test_a_ca_and_the_one_that_is_to_come(tmp_path: Path) -> None:
    keys = [SigningKey(bytes([number]) * 32).public for number in range(3)]
    trust = Trust.of_ca(*keys)
    write_trust(tmp_path / "trust.toml", trust)
    assert read_trust(tmp_path / "trust.toml") == trust
    assert trust.cas == (keys[0], keys[2])
    (tmp_path / "trust.toml").write_text(
        f'server = "{keys[1].hex()}"\nnext_ca = "{keys[2].hex()}"\n[clients]\na = "{keys[0].hex()}"\n'
    )
    with pytest.raises(ConfigError, match="comes after a ca"):
        read_trust(tmp_path / "trust.toml")
    with pytest.raises(ConfigError, match="same key"):
        Trust.of_ca(keys[0], keys[1], keys[0])
