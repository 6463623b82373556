"""Devices that a CA has certified, as the journal has them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from sqlite3 import Connection

from fedkit.aggregator.journal import Journal
from fedkit.aggregator.refusal import Refusal
from fedkit.aggregator.seats import Seats, seated
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

    cas: whose certificates are good, now; `believe` changes them. room: places for devices; 0: no bound.
    clock: unix time.
    """

    def __init__(
        self,
        journal: Journal,
        cas: Sequence[bytes],
        room: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._journal, self._cas, self._room, self._clock = journal, tuple(cas), room, clock
        self._seats = Seats(room, ())
        journal.put(room=room)
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

    def demand_place(self, client: ClientId) -> None:
        """Refusal 403 `full` if there was no place when this client came."""
        if client in self._seats.waiting:
            told = (
                f"client {client!r} has to wait, all {self._room} places of this run are taken: its operator "
            )
            told += "has to revoke a device that is gone, or to serve the next run with more (--clients)"
            raise Refusal(403, "full", told)

    def seats(self) -> Seats:
        """Who has a place."""
        return self._seats

    def clients(self) -> Sequence[ClientId]:
        """Those whose certificates are good, sorted."""
        members = self._members
        return sorted(client for client in self._seats.held if self._good(members[client]))

    def believe(self, cas: Sequence[bytes]) -> None:
        """From now on certificates of these CAs are good."""
        self._cas = tuple(cas)

    def admit(self, db: Connection, made: Certified, renewed: bool) -> None:
        """Write a certificate down; it counts at once unless the device must first fetch its new key's.

        renewed: on the word of the key before. Else another key is another device under the same name: what
        was under way with the one before is not its own.
        """
        member = self._members.get(made.client)
        other = member is not None and member.key != made.key
        active = member is None or not self._good(member) or not other
        if other and not renewed:
            _part(db, made.client)
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

    def copied(self) -> float:
        """If this is a copy that has seen no list of revocations made since: when it was made; else 0."""
        return float(self._journal.meta("copied") or 0.0)

    def revoke(self, ca: bytes, found: Revocations) -> bool:
        """Take what is new in a list of this CA; whether there was anything.

        Who was revoked stays so, whatever a CA says that was put back from a copy.
        """
        names = tuple(f"{word} {ca.hex()}" for word in ("crl_at", "crl_number", "revoked"))
        at, number, serials = (self._journal.meta(name) for name in names)
        known = frozenset(str(serials or "").split(",")) - {""}
        this, last = (found.at, found.number), (int(at or 0), int(number or 0))
        if this < last:
            log.error("a list of revocations, number %d, is older than the last", found.number)
        elif this > last:
            self._heed(known - found.serials, found.at)
            self._journal.put(durable=True, **dict(zip(names, this, strict=False)))
        if found.serials <= known:
            return False
        self._journal.put(durable=True, **{names[2]: ",".join(known | found.serials)})
        for client, member in self._members.items():
            if member.serial in found.serials and member.serial not in self._revoked:
                log.warning("client %r was revoked", client)
        return True

    def _heed(self, lacking: Collection[str], at: float) -> None:
        """The CA has said something new at this time, and has left out what it had revoked before."""
        if lacking:
            told = "the CA's list lacks %d that it had revoked, which stay so: was it put back from a copy?"
            log.error(told, len(lacking))
        if 0 < self.copied() < at:
            self._journal.put(durable=True, copied=0.0)

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
        self._members = {client: _Member(*row) for client, *row in rows}
        before = self._seats
        self._seats = seated(((row[0], row[1]) for row in rows), self._revoked, self._room)
        _note(before, self._seats)

    def _good(self, member: _Member) -> bool:
        in_time = member.ends > self._clock() and member.serial not in self._revoked
        return in_time and member.ca in self._cas


def _note(before: Seats, now: Seats) -> None:
    """Tell the operator who has found no place, and who has found one after all."""
    for client in now.waiting:
        if client not in before.waiting:
            told = (
                "no place for client %r, all %d are taken: revoke a device that is gone, or serve with more"
            )
            log.warning(told, client, now.room)
    for client in now.held:
        if client in before.waiting:
            log.info("client %r has a place that was given free", client)


def _part(db: Connection, client: ClientId) -> None:
    """Forget what a device had of its tasks, and what became of them; results that were accepted count."""
    db.execute("DELETE FROM tasks WHERE client = ? AND verdict IS NOT NULL", (client,))
    db.execute("UPDATE tasks SET leased = NULL, acked = NULL WHERE client = ?", (client,))
    db.execute(
        "DELETE FROM uploads WHERE task NOT IN (SELECT task FROM replies)"
        " AND task IN (SELECT id FROM tasks WHERE client = ?)",
        (client,),
    )
