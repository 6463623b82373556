"""A file that says who is who, exchanged by hand (compare fingerprints) and the same for all.

    server = "hex"                     the aggregator's Ed25519 key
    [clients]                          either the keys of all clients
    alice = "hex"
    bob = "hex"

or `ca = "hex"` instead of [clients]: whom that CA certifies is believed, and with `next_ca = "hex"` also whom
that certifies, while one CA takes over from the other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from fedkit import toml
from fedkit.errors import ConfigError, DataError, nearest
from fedkit.secagg.identity import Trust

_KEYS = ("server", "clients", "ca", "next_ca")


def read_trust(path: Path) -> Trust:
    """The trust of a file. ConfigError with file and line: not TOML, an unknown key, a key that is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; a roster names the keys of server and clients") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error}") from None
    try:
        tree = toml.loads(text)
    except ValueError as error:  # a key that stands twice is one of these
        raise ConfigError(f"{path}: {error}") from None
    return _trust(tree, _Place(path, toml.lines(text)))


def write_trust(path: Path, trust: Trust) -> None:
    """Write what `read_trust` reads, whole or not at all. ConfigError: there is nobody to be trusted."""
    if trust.kind == "none":
        raise ConfigError("no roster file without identities: there is no key to pin")
    tree: dict[str, object] = {"server": trust.server.hex()}
    if trust.kind == "ca":
        tree["ca"] = trust.ca.hex()
        if trust.next_ca:
            tree["next_ca"] = trust.next_ca.hex()
    else:
        tree["clients"] = {client: trust.roster[client].hex() for client in sorted(trust.roster)}
    beside = path.with_name(path.name + ".tmp")
    with beside.open("w", encoding="utf-8") as file:
        file.write(toml.dumps(tree))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


class _Place:
    """Where a key stands, for messages."""

    def __init__(self, path: Path, lines: Mapping[str, int]) -> None:
        self._path, self._lines = path, lines

    def error(self, key: str, reason: str) -> ConfigError:
        line = self._lines.get(key)
        return ConfigError(f"{self._path}{f':{line}' if line else ''}: {key}: {reason}")


def _trust(tree: Mapping[str, object], place: _Place) -> Trust:
    for key in tree:
        if key not in _KEYS:
            raise place.error(key, f"unknown key; {nearest(key, _KEYS)}")
    if "server" not in tree:
        raise place.error("server", "missing: the aggregator's public key, 64 hexadecimal digits")
    if ("ca" in tree) == ("clients" in tree):
        raise place.error("clients", "a roster has either [clients] or a ca")
    server = _key(tree["server"], "server", place)
    clients = _clients(tree["clients"], place) if "clients" in tree else {}
    ca = _key(tree["ca"], "ca", place) if "ca" in tree else b""
    if "next_ca" in tree and not ca:
        raise place.error("next_ca", "it comes after a ca, and there is none")
    after = _key(tree["next_ca"], "next_ca", place) if "next_ca" in tree else b""
    try:
        return Trust.of_ca(ca, server, after) if ca else Trust.of_roster(clients, server)
    except ConfigError as error:
        raise place.error("ca" if ca else "clients", str(error)) from None


def _clients(table: object, place: _Place) -> dict[str, bytes]:
    if not isinstance(table, dict) or not table:
        raise place.error("clients", "a table of client ids and their public keys")
    return {str(client): _key(value, f"clients.{client}", place) for client, value in table.items()}


def _key(value: object, name: str, place: _Place) -> bytes:
    try:
        found = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        found = b""
    if len(found) != 32:
        raise place.error(name, "an Ed25519 public key has 64 hexadecimal digits")
    return found
