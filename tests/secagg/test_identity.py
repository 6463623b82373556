"""Who is believed to be whom, and the file that says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedkit.errors import ConfigError, DataError
from fedkit.secagg.identity import Authority, Identity, SigningKey, Trust, fingerprint
from fedkit.secagg.rosterfile import read_trust, write_trust


def key(mark: int) -> SigningKey:
    return SigningKey(bytes([mark]) * 32)


SERVER = key(9).public
ROSTER = Trust.of_roster({"a": key(1).public, "b.c": key(2).public}, SERVER)


def test_a_roster_knows_its_clients_by_their_keys() -> None:
    assert ROSTER.vouches("a", key(1).public, b"")
    assert not ROSTER.vouches("a", key(2).public, b"")
    assert not ROSTER.vouches("x", key(1).public, b"")
    assert not ROSTER.vouches("a", key(1).public, b"s" * 64)
    assert ROSTER.knows("a")
    assert not ROSTER.knows("x")


def test_a_ca_vouches_for_one_client_and_one_key() -> None:
    ca, other = Authority(key(7)), Authority(key(8))
    trust = Trust.of_ca(key(7).public, SERVER)
    voucher = ca.certify("a", key(1).public).signature
    assert trust.vouches("a", key(1).public, voucher)
    assert not trust.vouches("b", key(1).public, voucher)
    assert not trust.vouches("a", key(2).public, voucher)
    assert not trust.vouches("a", key(1).public, b"")
    assert not trust.vouches("a", key(1).public, other.certify("a", key(1).public).signature)
    assert trust.knows("whoever")


def test_without_identities_any_key_will_do() -> None:
    trust = Trust.none()
    assert trust.vouches("a", key(1).public, b"")
    assert not trust.vouches("a", key(1).public, b"s" * 64)


def test_one_key_for_two_is_refused() -> None:
    with pytest.raises(ConfigError, match="a and b have the same key"):
        Trust.of_roster({"a": key(1).public, "b": key(1).public}, SERVER)
    with pytest.raises(ConfigError, match="same key"):
        Trust.of_roster({"a": SERVER}, SERVER)
    with pytest.raises(ConfigError, match="same key"):
        Trust.of_ca(SERVER, SERVER)


@pytest.mark.parametrize(
    "make",
    [lambda: Trust.of_roster({"a": b"short"}, SERVER), lambda: Trust.of_ca(b"", SERVER), lambda: Trust("ca")],
)
def test_a_key_has_32_bytes(make: object) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match="32 bytes"):
        make()


def test_an_identity_holds_its_own_certificate() -> None:
    ca = Authority(key(7))
    made = Identity("a", key(1), ca.certify("a", key(1).public))
    assert made.voucher == ca.certify("a", key(1).public).signature
    assert Identity("a", key(1)).voucher == b""
    assert key(1).secret.hex() not in repr(made)
    with pytest.raises(ConfigError, match="certificate of 'b'"):
        Identity("a", key(1), ca.certify("b", key(1).public))
    with pytest.raises(ConfigError, match="older key"):
        Identity("a", key(1), ca.certify("a", key(2).public))


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


def test_fingerprints_are_grouped() -> None:
    assert fingerprint(bytes(32)) == " ".join(["00000000"] * 8)
