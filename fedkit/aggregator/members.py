"""Devices that a CA has certified, as the journal has them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from sqlite3 import Connection

from fedkit.aggregator.journal import Journal
from fedkit.aggregator.refusal import Refusal
from fedkit.ca.certificates import Certified, Revocations
from fedkit.messages import ClientId

log = logging.getLogger("fedkit.aggregator")


@dataclass(frozen=True, slots=True)
class _Member:
    serial: str
    key: bytes
    ends: int
    ca: bytes


class Members:
    """The enrolled devices: for each the newest certificate that it has fetched.

    cas: whose certificates are good, now; `believe` changes them. room: as many as may be there; those that
    come later wait. clock: unix time.
    """

    def __init__(
        self,
        journal: Journal,
        cas: Sequence[bytes],
        room: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._journal, self._cas, self._room, self._clock = journal, tuple(cas), room, clock
        self._told = False
        self._load()

    def key(self, client: ClientId) -> bytes | None:
        """The key of its certificate; None: it has not enrolled here."""
        member = self._members.get(client)
        return member.key if member is not None else None

    def demand(self, client: ClientId) -> None:
        """Refusal 403 unless the certificate of this client is good: `revoked`, `expired`."""
        member = self._members[client]
        if member.serial in self._revoked:
            raise Refusal(403, "revoked", f"the certificate of client {client!r} was revoked")
        if not self._good(member):
            why = "has expired" if member.ca in self._cas else "is of a CA that is not believed any more"
            told = f"the certificate of client {client!r} {why}: join again with a new invite"
            raise Refusal(403, "expired", told)

    def known(self) -> Sequence[ClientId]:
        """All that have ever enrolled, in that order, as far as there is room."""
        if self._room and len(self._order) > self._room and not self._told:
            more = len(self._order) - self._room
            log.warning("%d more devices enrolled than the run has room for (%d)", more, self._room)
            self._told = True
        return self._order[: self._room] if self._room else self._order

    def clients(self) -> Sequence[ClientId]:
        """Those whose certificates are good, sorted."""
        members = self._members
        return sorted(client for client in self.known() if self._good(members[client]))

    def believe(self, cas: Sequence[bytes]) -> None:
        """From now on certificates of these CAs are good."""
        self._cas = tuple(cas)

    def admit(self, db: Connection, made: Certified) -> None:
        """Write a certificate down; it counts at once unless the device must first fetch its new key's."""
        member = self._members.get(made.client)
        active = member is None or not self._good(member) or member.key == made.key
        db.execute(
            "INSERT OR IGNORE INTO members (serial, client, key, begins, ends, active, ca)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (made.serial, made.client, made.key, made.begins, made.ends, active, made.ca),
        )

    def fetched(self, serial: str) -> None:
        """The device has this certificate: from now on it is the one."""
        with self._journal.transaction(durable=True) as db:
            done = db.execute("UPDATE members SET active = 1 WHERE serial = ? AND NOT active", (serial,))
        if done.rowcount:
            self.reload()

    def revoke(self, ca: bytes, found: Revocations) -> bool:
        """Take a list of this CA if it is newer than the last, and only then; whether it was."""
        number, serials = f"crl_number {ca.hex()}", f"revoked {ca.hex()}"
        last = self._journal.meta(number)
        if last is not None and found.number <= int(last):
            if found.number < int(last):
                log.error("a list of revocations is not taken: its number %d is older", found.number)
            return False
        told: dict[str, str | bytes | float] = {number: found.number, serials: ",".join(found.serials)}
        self._journal.put(durable=True, **told)
        for client, member in self._members.items():
            if member.serial in found.serials and member.serial not in self._revoked:
                log.warning("client %r was revoked", client)
        return True

    def reload(self) -> None:
        """Know what was written."""
        self._load()
        self._journal.wake()

    def _load(self) -> None:
        with self._journal.transaction() as db:
            rows = db.execute(
                "SELECT client, serial, key, ends, ca FROM members WHERE active ORDER BY turn"
            ).fetchall()
            lists = db.execute("SELECT value FROM meta WHERE name LIKE 'revoked %'").fetchall()
        self._revoked = frozenset(serial for (told,) in lists for serial in str(told).split(","))
        self._order = list(dict.fromkeys(row[0] for row in rows))
        self._members = {client: _Member(*row) for client, *row in rows}

    def _good(self, member: _Member) -> bool:
        in_time = member.ends > self._clock() and member.serial not in self._revoked
        return in_time and member.ca in self._cas
