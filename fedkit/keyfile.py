"""The key of a device or an aggregator as a file: `identity.pem`, PKCS#8, readable by its owner only."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from fedkit.errors import ConfigError, DataError
from fedkit.runfolder import sync
from fedkit.secagg.identity import SigningKey

NAME = "identity.pem"


def make_key(directory: Path) -> SigningKey:
    """A fresh key, written to `directory`. ConfigError: there is one already, or it cannot be written."""
    key = SigningKey.new()
    write_key(directory, key)
    return key


def write_key(directory: Path, key: SigningKey) -> None:
    """Write a key to `directory`, whole or not at all. ConfigError: there is one, or it cannot be written."""
    path = directory / NAME
    private = Ed25519PrivateKey.from_private_bytes(key.secret)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _place(path, pem)
    except FileExistsError:
        raise ConfigError(f"{path} holds a key already: who has lost it removes the file first") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def _place(path: Path, pem: bytes) -> None:
    """Write a file that its owner alone may read; FileExistsError: there is one."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        os.link(beside, path)  # a rename would replace what is there
    finally:
        beside.unlink()
    sync(path.parent)


def own_key(directory: Path) -> SigningKey:
    """The key in `directory`, made now if there is none. ConfigError as of `read_key` and `make_key`."""
    return read_key(directory) if (directory / NAME).exists() else make_key(directory)


def read_key(directory: Path) -> SigningKey:
    """The key in `directory`. DataError: there is none; ConfigError: it is no Ed25519 key."""
    path = directory / NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; make a key with: fedkit identity {directory}") from None
    try:
        private = load_pem_private_key(data, None)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path}: not an unencrypted key in PEM: put a copy of it back; another key needs a new "
            "invite, or a new line in the roster"
        ) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigError(f"{path}: a key of another kind; one of Ed25519 is needed")
    return SigningKey(private.private_bytes_raw())
