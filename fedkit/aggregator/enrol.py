"""Enrolment: devices ask for certificates, the CA answers by files, and who has one is a client.

The aggregator has no key of the CA: it checks, keeps and passes on. An invite is used once: the request that
came first stands, also after a restart.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import islice

from fedkit.aggregator.journal import Journal
from fedkit.aggregator.members import Members
from fedkit.aggregator.refusal import Refusal
from fedkit.aggregator.seats import Seats
from fedkit.ca.certificates import Certified, read_certificate, read_revocations
from fedkit.ca.mailbox import Mailbox
from fedkit.ca.requests import Grant, Request, read_grant, read_request
from fedkit.ca.succession import FILE, Succession, read_succession
from fedkit.errors import ConfigError, CryptoError, RunFailed, WireError
from fedkit.messages import ClientId
from fedkit.secagg.identity import Trust, fingerprint

log = logging.getLogger("fedkit.aggregator")

AT_ONCE = 32
"""Answers that are taken at one look: requests wait while they are written."""
LOOK = 1.0
"""Seconds after which the mailbox is looked into again."""


class Enrolment:
    """The registry of an aggregator whose devices a CA certifies. trust: of kind `ca`, at the start.
    ConfigError: the journal is that of a copy, and the CA has not said since who was revoked.

    Once another CA is announced in the mailbox both are believed, and from the end of that time the new one.
    """

    def __init__(
        self, journal: Journal, trust: Trust, room: int = 0, clock: Callable[[], float] = time.time
    ) -> None:
        self._journal, self._trust, self._clock = journal, trust, clock
        self._members = Members(journal, trust.cas, room, clock)
        self._heir: Succession | None = None
        self._mailbox = Mailbox(journal.directory / "enrol")
        self._lock, self._stamp, self._looked = threading.Lock(), tuple[int, ...](), -LOOK
        for name, data in self._pending():
            self._mailbox.ask(name, data)
        self._look()
        self._demand_news()

    @property
    def trust(self) -> Trust:
        """Whose certificates are believed now."""
        self._look()
        return self._trust

    def key(self, client: ClientId) -> bytes | None:
        """The key of its certificate; None: it has not enrolled."""
        self._look()
        return self._members.key(client)

    def demand(self, client: ClientId) -> None:
        """Refusal 403 unless the certificate of this client is good and it has a place: `revoked`,
        `expired`, `full`.
        """
        self._look()
        self._members.demand(client)
        self._members.demand_place(client)

    def clients(self) -> Sequence[ClientId]:
        """Those whose certificates are good, sorted."""
        self._look()
        return self._members.clients()

    def seats(self) -> Seats:
        """Who has a place."""
        self._look()
        return self._members.seats()

    def pending(self) -> Sequence[ClientId]:
        """Who waits for the CA."""
        return [read_request(data).client for _, data in self._pending()]

    def take(self, body: bytes) -> str:
        """Keep a request for the CA; its id. The same request again changes nothing.

        Refusal: 403 `invite` (a signature does not hold), `revoked`, `expired`; 409 `used`.
        """
        request = read_request(body)
        with self._journal.transaction() as db:
            known = db.execute("SELECT answer FROM enrolments WHERE id = ?", (request.id,)).fetchone()
        if known is None:
            self._demand(request)
            self._keep(request)
            log.info("client %r asks for a certificate: request %s", request.client, request.id[:16])
        if known is None or known[0] is None:
            self._mailbox.ask(request.id, request.data())
        return request.id

    def answer(self, name: str) -> Grant | None:
        """The CA's answer to a request; None while there is none. Refusal: 404 `unknown`, 403 `refused`."""
        self._look()
        with self._journal.transaction() as db:
            row = db.execute("SELECT answer FROM enrolments WHERE id = ?", (name,)).fetchone()
        if row is None:
            raise Refusal(404, "unknown", "there is no such request")
        if row[0] is None:
            return None
        grant = read_grant(row[0])
        if grant.refused:
            raise Refusal(403, "refused", f"the CA refuses: {grant.refused}")
        try:
            self._members.fetched(self._certified(grant).serial)
        except CryptoError:
            told = "the CA that answered this is not believed any more: join again with a new invite"
            raise Refusal(403, "expired", told) from None
        return grant

    def succession(self) -> bytes:
        """The announcement of a new CA. Refusal 404 `unknown`: there is none."""
        self._look()
        if self._heir is None or not self._trust.next_ca:
            raise Refusal(404, "unknown", "no new CA is announced")
        return self._heir.data()

    def _demand_news(self) -> None:
        """ConfigError if devices could be let in that were revoked after this copy was made."""
        if at := self._members.copied():
            home, made = self._journal.directory.parent, f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"
            raise ConfigError(
                f"{home} is a copy of {made} UTC, and knows nobody who was revoked since: give it the CA's "
                f"list of now by `fedkit ca publish --ca CA --dir {home}`, or without --dir at the CA and "
                "`fedkit ca import crl.pem` here (if the CA has changed since: `fedkit ca import "
                f"next-ca.json --dir {home}` before that); then start again"
            )

    def _keep(self, request: Request) -> None:
        """Write a request down. Refusal: its invite is used up.

        A device waits for one renewal: a newer one takes its place, or it could fill disk and CA with them.
        """
        once, old = None if request.renews else request.by.hex(), list[tuple[str]]()
        row = (request.id, request.client, once, request.data(), self._clock())
        with self._journal.transaction(durable=True) as db:
            if request.renews:
                old = db.execute(
                    "SELECT id FROM enrolments WHERE client = ? AND once IS NULL AND answer IS NULL",
                    (request.client,),
                ).fetchall()
                db.executemany("DELETE FROM enrolments WHERE id = ?", old)
            db.execute(
                "INSERT OR IGNORE INTO enrolments (id, client, once, request, at) VALUES (?, ?, ?, ?, ?)", row
            )
            kept = db.execute("SELECT 1 FROM enrolments WHERE id = ?", (request.id,)).fetchone()
        for (name,) in old:
            self._mailbox.done(name)
        if kept is None:
            told = f"the invite for client {request.client!r} was used with another key"
            raise Refusal(409, "used", told)

    def _demand(self, request: Request) -> None:
        """Refusal unless an invite, or a good certificate, stands behind the request."""
        if request.until < self._clock():
            raise Refusal(403, "expired", "the invite is over: ask for another")
        try:
            request.check(self.trust.cas, self._clock())
        except CryptoError as error:
            raise Refusal(403, "invite", str(error)) from None
        if request.renews:
            if self._members.key(request.client) != request.by:
                raise Refusal(403, "invite", f"the request is not signed by client {request.client!r}")
            self._members.demand(request.client)

    def _look(self) -> None:
        """Take what the CA has left, if it has left something."""
        with self._lock:
            if time.monotonic() < self._looked + LOOK:
                return
            try:
                stamp = self._mailbox.stamp()
                if stamp != self._stamp:
                    self._hear()
                self._believe()
                if stamp != self._stamp and self._empty():
                    self._stamp = stamp
            except (OSError, RunFailed) as error:
                log.error("the exchange with the CA cannot be read: %s", error)
            self._looked = time.monotonic()

    def _hear(self) -> None:
        """Take the announcement of a new CA, if there is one and it is of the CA that is believed."""
        data = self._mailbox.get(FILE)
        if not data or (self._heir is not None and data == self._heir.data()):
            return
        try:
            heir = read_succession(data)
            heir.applied(self._trust, self._clock())
        except (CryptoError, WireError) as error:
            log.error("the announcement of a new CA is not taken: %s", error)
            return
        self._heir = heir

    def _believe(self) -> None:
        """Believe whom the announcement says at this time."""
        if self._heir is None:
            return
        trust = self._heir.applied(self._trust, self._clock())
        if trust != self._trust:
            both = "both it and the one before are" if trust.next_ca else "it alone is"
            log.warning("a new CA takes over, %s believed: %s", both, fingerprint(self._heir.ca))
            self._trust = trust
            self._members.believe(trust.cas)

    def _empty(self) -> bool:
        """Take revocations and some answers; whether that was all."""
        news, answers = self._revocations(), list(islice(self._mailbox.answers(), AT_ONCE))
        for name, data in answers:
            try:
                news |= self._import(name, data)
            except (CryptoError, WireError) as error:
                log.error("an answer to request %s is dropped: %s", name[:16], error)
                (self._mailbox.folder / "answers" / f"{name}.json").unlink(missing_ok=True)
            else:
                self._mailbox.done(name)
        if news:
            self._members.reload()
        return len(answers) < AT_ONCE

    def _import(self, name: str, data: bytes) -> bool:
        """Write an answer down; whether there is one more certificate. CryptoError, WireError: it is none."""
        grant = read_grant(data)
        with self._journal.transaction(durable=True) as db:
            row = db.execute("SELECT request, answer FROM enrolments WHERE id = ?", (name,)).fetchone()
            if row is None or grant.id != name:
                raise WireError("there is no such request")
            if row[1] is not None:
                return False
            request = read_request(row[0])
            db.execute("UPDATE enrolments SET answer = ? WHERE id = ?", (data, name))
            if grant.refused:
                log.warning("the CA refuses client %r: %s", request.client, grant.refused)
                return False
            made = self._certified(grant)
            if (made.client, made.key) != (request.client, request.key):
                raise CryptoError("its certificate is for another client or key than asked for")
            if not self._trust.vouches(made.client, made.key, grant.voucher):
                raise CryptoError("its voucher does not hold")
            self._members.admit(db, made, request.renews)
        log.info("client %r has a certificate", made.client)
        return True

    def _revocations(self) -> bool:
        """Take the CA's list, if it is a newer one; whether it was."""
        data, why = self._mailbox.get("crl.pem"), ""
        for ca in self._trust.cas if data else ():
            try:
                return self._members.revoke(ca, read_revocations(data, ca))
            except CryptoError as error:
                why = str(error)
        if why:
            log.error("the list of revocations is not taken: %s (of a new CA? Import its next-ca.json)", why)
        return False

    def _certified(self, grant: Grant) -> Certified:
        return read_certificate(grant.certificate.encode(), self._trust.cas)

    def _pending(self) -> Sequence[tuple[str, bytes]]:
        with self._journal.transaction() as db:
            found: list[tuple[str, bytes]] = db.execute(
                "SELECT id, request FROM enrolments WHERE answer IS NULL ORDER BY at"
            ).fetchall()
        return found
