"""A CA in a directory of its own, best on a machine that is no aggregator: it invites, certifies, revokes.

identity.pem   its key, which never leaves it    ledger.jsonl   what was issued and revoked
ca.pem         its certificate, for aggregators  crl.pem        its list of revocations, for aggregators
next-ca.json   its word on who comes after it    previous.pem   the certificate of whom it comes after
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

from fedkit.ca import certificates
from fedkit.ca.invites import Invite
from fedkit.ca.ledger import LEDGER, Issued, Ledger
from fedkit.ca.requests import Grant, Request
from fedkit.ca.succession import FILE, Succession, announce
from fedkit.ca.texts import check_party, sanction_text
from fedkit.errors import ConfigError, CryptoError, nearest
from fedkit.keyfile import make_key, read_key
from fedkit.messages import ClientId
from fedkit.runfolder import lock_file, replace_file
from fedkit.secagg import identity
from fedkit.secagg.identity import SigningKey

CERTIFICATE, REVOCATIONS, PREVIOUS = "ca.pem", "crl.pem", "previous.pem"
OVERLAP = timedelta(days=365)
"""How long an old CA is believed beside the new one: two lives of a certificate."""
INVITED = timedelta(days=7)
"""How long an invite is good."""


def _now() -> datetime:
    return datetime.now(UTC)


def make_authority(directory: Path, clock: Callable[[], datetime] = _now) -> bytes:
    """A new CA in `directory`; its public key. ConfigError: there is one already."""
    key = make_key(directory)
    replace_file(directory / CERTIFICATE, certificates.pem(certificates.make_ca(key, clock())))
    replace_file(directory / REVOCATIONS, certificates.pem(certificates.revoke(key, {}, 0, clock())))
    return key.public


class Authority:
    """The CA in `directory`, which this process has to itself while the context is open.

    DataError: there is none. ConfigError: in use, or damaged.
    """

    def __init__(self, directory: Path, clock: Callable[[], datetime] = _now) -> None:
        self._directory, self._clock = directory, clock
        self._key = read_key(directory)
        previous = directory / PREVIOUS
        before = (certificates.ca_key(previous.read_bytes()),) if previous.exists() else ()
        self._cas = (self.public, *before)
        if not (directory / CERTIFICATE).exists():
            raise ConfigError(f"{directory} is no CA: make one with `fedkit ca init`")
        self._lock = lock_file(directory / "lock")
        try:
            self._ledger = Ledger(directory)
        except ConfigError:
            self._lock.close()
            raise

    def __enter__(self) -> Authority:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._lock.close()

    @property
    def public(self) -> bytes:
        """Its key."""
        return self._key.public

    def invite(self, client: ClientId, address: str, server: bytes, life: timedelta = INVITED) -> Invite:
        """The right to enrol once as `client` with the aggregator of that address and key."""
        try:
            check_party(client, server)
        except CryptoError as error:
            raise ConfigError(f"client {client!r}: {error}") from None
        once, expires = SigningKey.new(), int((self._clock() + life).timestamp())
        sanction = self._key.sign(sanction_text(client, once.public, expires))
        return Invite(address, self.public, server, client, expires, once.secret, sanction)

    def answer(self, request: Request, life: timedelta = certificates.LIFE) -> Grant:
        """Certify what is asked for, once; a grant that says why not, if it must not be."""
        if known := self._ledger.issued.get(request.id):
            return self._grant(known)
        try:
            self._demand(request)
        except CryptoError as error:
            return Grant(request.id, refused=str(error))
        made = certificates.certify(self._key, request.client, request.key, self._clock(), life)
        pem = certificates.pem(made)
        told = certificates.read_certificate(pem, (self.public,))
        issued = Issued(
            request.id,
            request.client,
            request.key.hex(),
            request.by.hex(),
            told.serial,
            told.ends,
            pem.decode("ascii"),
        )
        self._ledger.issue(issued)
        return self._grant(issued)

    def revoke(self, client: ClientId) -> int:
        """Revoke all certificates of a client; how many that were. ConfigError: it has none."""
        given = [made for made in self._ledger.issued.values() if made.client == client]
        if not given:
            names = {made.client for made in self._ledger.issued.values()}
            raise ConfigError(f"no certificate was issued to client {client!r}; {nearest(client, names)}")
        fresh = [made.serial for made in given if made.serial not in self._ledger.revoked]
        for serial in fresh:
            self._ledger.revoke(serial, int(self._clock().timestamp()))
        self.publish()
        return len(fresh)

    def issued(self) -> Sequence[tuple[Issued, bool]]:
        """All certificates that were given, in order, and whether each is revoked."""
        return [(made, made.serial in self._ledger.revoked) for made in self._ledger.issued.values()]

    def succeed(self, directory: Path, overlap: timedelta = OVERLAP) -> Succession:
        """Make a new CA in `directory`, which knows what this one has issued, and announce it.

        ConfigError: there is one already.
        """
        public = make_authority(directory, self._clock)
        replace_file(directory / PREVIOUS, (self._directory / CERTIFICATE).read_bytes())
        replace_file(directory / LEDGER, self._ledger.data())
        made = announce(self._key, public, int((self._clock() + overlap).timestamp()))
        replace_file(self._directory / FILE, made.data())
        return made

    def publish(self) -> bytes:
        """Write the list of revocations, and give it."""
        revoked = {serial: datetime.fromtimestamp(at, UTC) for serial, at in self._ledger.revoked.items()}
        made = certificates.revoke(self._key, revoked, len(revoked), self._clock())
        data = certificates.pem(made)
        replace_file(self._directory / REVOCATIONS, data)
        return data

    def _demand(self, request: Request) -> None:
        """CryptoError unless the request may be granted."""
        now = self._clock().timestamp()
        request.check(self._cas, now)
        given = list(self._ledger.issued.values())
        for made in given:
            if made.key == request.key.hex() and made.client != request.client:
                raise CryptoError(f"its key is that of client {made.client!r}")
        if request.key == self.public:
            raise CryptoError("its key is that of the CA")
        if not request.renews:
            if any(made.by == request.by.hex() for made in given):
                raise CryptoError("the invite was used before")
            return
        good = [
            made
            for made in given
            if made.client == request.client and made.ends > now and made.serial not in self._ledger.revoked
        ]
        if not any(made.key == request.by.hex() for made in good[-1:]):
            raise CryptoError(
                "it is not signed by the key of a certificate that is good: a new invite is needed"
            )

    def _grant(self, issued: Issued) -> Grant:
        if issued.serial in self._ledger.revoked:
            return Grant(issued.id, refused="the certificate was revoked")
        vouch = identity.Authority(self._key).certify(issued.client, bytes.fromhex(issued.key))
        return Grant(issued.id, issued.certificate, vouch.signature)
