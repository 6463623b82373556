"""A CA in a directory of its own, best on a machine that is no aggregator: it invites, certifies, revokes.

identity.pem   its key, which never leaves it    ledger.jsonl       what was issued and revoked
ca.pem         its certificate, for aggregators  crl.pem            its list of revocations, for aggregators
next-ca.json   that another comes after it       previous-ca.json   that it comes after another
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

from fedkit.ca import certificates
from fedkit.ca.invites import Invite
from fedkit.ca.ledger import LEDGER, Issued, Ledger
from fedkit.ca.requests import Grant, Request
from fedkit.ca.succession import FILE, Succession, announce, read_succession
from fedkit.ca.texts import check_party, sanction_text
from fedkit.errors import ConfigError, CryptoError, WireError, nearest
from fedkit.keyfile import make_key, read_key
from fedkit.messages import ClientId
from fedkit.runfolder import lock_file, replace_file
from fedkit.secagg import identity
from fedkit.secagg.identity import SigningKey

CERTIFICATE, REVOCATIONS, PREVIOUS = "ca.pem", "crl.pem", "previous-ca.json"
OVERLAP = timedelta(days=365)
"""How long an old CA is believed beside the new one: two lives of a certificate."""
INVITED = timedelta(days=7)
"""How long an invite is good."""


def _now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


def make_authority(directory: Path, clock: Callable[[], datetime] = _now) -> bytes:
    """A new CA in `directory`; its public key. ConfigError: there is one already."""
    key = make_key(directory)
    replace_file(directory / CERTIFICATE, certificates.pem(certificates.make_ca(key, clock())))
    replace_file(directory / REVOCATIONS, certificates.pem(certificates.revoke(key, {}, 0, clock())))
    return key.public


class Authority:
    """The CA in `directory`, which this process has to itself while the context is open.

    ConfigError: there is none, or in use, or damaged. DataError: its key is gone.
    """

    def __init__(self, directory: Path, clock: Callable[[], datetime] = _now) -> None:
        self._directory, self._clock = directory, clock
        if not (directory / CERTIFICATE).exists():
            raise ConfigError(
                f"{directory} is no CA: give --ca, or make one with `fedkit ca init {directory}`"
            )
        self._key = read_key(directory)
        self._before, self._after = _announced(directory / PREVIOUS), _announced(directory / FILE)
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

    @property
    def cas(self) -> tuple[bytes, ...]:
        """The CAs whose invites it honours: itself, and for a while the one that it comes after."""
        before = self._before
        good = before is not None and self._clock().timestamp() <= before.until
        return (self.public, before.before) if before is not None and good else (self.public,)

    def invite(self, client: ClientId, address: str, server: bytes, life: timedelta = INVITED) -> Invite:
        """The right to enrol once as `client` with the aggregator of that address and key.

        ConfigError: nobody can have that name or key, or another CA has taken over.
        """
        self._demand_reign()
        try:
            check_party(client, server)
        except CryptoError as error:
            raise ConfigError(f"client {client!r}: {error}") from None
        once, expires = SigningKey.new(), int((self._clock() + life).timestamp())
        sanction = self._key.sign(sanction_text(client, once.public, expires))
        return Invite(address, self.public, server, client, expires, once.secret, sanction)

    def answer(self, request: Request, life: timedelta = certificates.LIFE) -> Grant:
        """Certify what is asked for, once; a grant that says why not, if it must not be.

        ConfigError: another CA has taken over.
        """
        self._demand_reign()
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
        """Revoke all certificates of a client; how many that were.

        ConfigError: it has none, or another CA has taken over.
        """
        self._demand_reign()
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

        From now on this one certifies and revokes nothing: there is one ledger that grows. ConfigError: there
        is a CA already, or one has taken over from this, or this is still taking over from another.
        """
        self._demand_reign()
        if self._before is not None and len(self.cas) > 1:
            told = f"{datetime.fromtimestamp(self._before.until, UTC):%Y-%m-%d}"
            raise ConfigError(
                f"the CA in {self._directory} is itself taking over, until {told}: the next has to wait"
            )
        make_authority(directory, self._clock)
        until = int((self._clock() + overlap).timestamp())
        made = announce(self._key, read_key(directory), until)
        replace_file(directory / LEDGER, self._ledger.data())
        replace_file(directory / PREVIOUS, made.data())
        replace_file(self._directory / FILE, made.data())
        self._after = made
        return made

    def publish(self) -> bytes:
        """Sign the list of revocations, write it, and give it. ConfigError: another CA has taken over."""
        self._demand_reign()
        revoked = {serial: datetime.fromtimestamp(at, UTC) for serial, at in self._ledger.revoked.items()}
        made = certificates.revoke(self._key, revoked, len(revoked), self._clock())
        data = certificates.pem(made)
        replace_file(self._directory / REVOCATIONS, data)
        return data

    def _demand_reign(self) -> None:
        """ConfigError if another CA has taken over."""
        if self._after is not None:
            raise ConfigError(
                f"the CA in {self._directory} has announced another, {identity.fingerprint(self._after.ca)}: "
                f"give the folder of that (--ca); if it is lost, remove {self._directory / FILE}"
            )

    def _demand(self, request: Request) -> None:
        """CryptoError unless the request may be granted."""
        now = self._clock().timestamp()
        request.check(self.cas, now)
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


def _announced(path: Path) -> Succession | None:
    """The announcement in a file, if there is one. ConfigError: it is damaged."""
    try:
        return read_succession(path.read_bytes()) if path.exists() else None
    except WireError as error:
        raise ConfigError(f"{path}: {error}: restore a copy") from None
