"""A key in a file."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fedkit.errors import ConfigError, DataError
from fedkit.keyfile import NAME, make_key, own_key, read_key


def test_what_was_made_is_read_and_is_private(tmp_path: Path) -> None:
    made = make_key(tmp_path / "device")
    assert read_key(tmp_path / "device").secret == made.secret
    if os.name != "nt":
        assert stat.S_IMODE((tmp_path / "device" / NAME).stat().st_mode) == 0o600


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    made = make_key(tmp_path)
    with pytest.raises(ConfigError, match="holds a key already"):
        make_key(tmp_path)
    assert read_key(tmp_path).secret == made.secret


def test_a_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fedkit identity"):
        read_key(tmp_path)


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("hello")
    with pytest.raises(ConfigError, match="PEM"):
        read_key(tmp_path)
    other = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / NAME).write_bytes(other)
    with pytest.raises(ConfigError, match="another kind"):
        read_key(tmp_path)


@pytest.mark.parametrize("at", ["write", "link"])
def test_a_crash_or_a_full_disk_leaves_no_part_of_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync" if at == "write" else "link", fail)
        with pytest.raises(ConfigError, match="cannot be written"):
            make_key(tmp_path)
    assert not list(tmp_path.iterdir())
    assert own_key(tmp_path).secret == read_key(tmp_path).secret
