"""What a CA has issued and revoked: one line of JSON each, only ever appended to, in `ledger.jsonl`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedkit import fields
from fedkit.ca.texts import encode
from fedkit.errors import ConfigError, WireError
from fedkit.messages import ClientId
from fedkit.runfolder import sync

LEDGER = "ledger.jsonl"


@dataclass(frozen=True)
class Issued:
    """A certificate that was given. by: whose word stood for the request `id`; ends: unix seconds."""

    id: str
    client: ClientId
    key: str
    by: str
    serial: str
    ends: int
    certificate: str


class Ledger:
    """The ledger of a directory. ConfigError: a line is damaged."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LEDGER
        self.issued: dict[str, Issued] = {}
        """By the id of the request, in order."""
        self.revoked: dict[str, int] = {}
        """Serial -> unix seconds."""
        for number, line in enumerate(self._lines(), 1):
            try:
                self._read(fields.mapping(fields.parse(line, "a line"), "a line"))
            except WireError as error:
                raise ConfigError(f"{self._path}:{number}: damaged ({error}): restore a copy") from None

    def issue(self, made: Issued) -> None:
        """Write a certificate down, durably."""
        self._append({"kind": "issued", **vars(made)})
        self.issued[made.id] = made

    def revoke(self, serial: str, at: int) -> None:
        """Write down that a certificate is revoked, durably."""
        self._append({"at": at, "kind": "revoked", "serial": serial})
        self.revoked[serial] = at

    def data(self) -> bytes:
        """All of it, for a CA that comes after this one."""
        return self._path.read_bytes() if self._path.exists() else b""

    def _read(self, found: fields.Fields) -> None:
        if found.get("kind") == "revoked":
            fields.exactly(found, "at", "kind", "serial")
            self.revoked[fields.text(found["serial"], "serial")] = fields.integer(found["at"], "at")
            return
        names = ("id", "client", "key", "by", "serial", "certificate")
        fields.exactly(found, "kind", "ends", *names)
        told = {name: fields.text(found[name], name) for name in names}
        made = Issued(**told, ends=fields.integer(found["ends"], "ends"))
        self.issued[made.id] = made

    def _append(self, content: dict[str, object]) -> None:
        with self._path.open("ab") as file:
            file.write(encode(content).encode("ascii") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync(self._path.parent)

    def _lines(self) -> Iterator[bytes]:
        """Whole lines; what a crash left of one that nobody was told of is cut off."""
        if not self._path.exists():
            return
        data = self._path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self._path, whole)
        yield from data[:whole].splitlines()
