"""How a device becomes a client: it asks with an invite, waits for the CA, and keeps what it is given.

The same with a new key: `rotate`. What a client does of it while it runs: renewal.py.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from fedkit import fields, keyfile
from fedkit.ca.certificates import LIFE, read_certificate
from fedkit.ca.invites import Invite, read_invite
from fedkit.ca.requests import ANSWER_LIMIT, Grant, Request, make_request, read_grant, read_request
from fedkit.ca.succession import Succession, read_succession
from fedkit.errors import ConfigError, CryptoError, FedkitError, WireError
from fedkit.runfolder import replace_file
from fedkit.secagg.identity import SigningKey, Trust
from fedkit.signing import VERSION, content_digest
from fedkit_clients.edge.answers import Answer, Refused, Unreachable, Way, framed, read_short, reason
from fedkit_clients.edge.audit import Audit
from fedkit_clients.edge.link import Link, address_of
from fedkit_clients.edge.membership import ABOUT, Membership, keep, read_membership, read_place
from fedkit_clients.edge.root import Root

log = logging.getLogger("fedkit.edge")

ROTATION, REQUEST = "rotation", "renewal.json"
"""Where the new key lies until it is certified; the request that is under way."""
POLL = (2.0, 30.0)
"""Seconds between two looks for an answer: at first, and at most."""
ASKED_FOR = LIFE / 6
"""How long a request for renewal is good, for a CA that is asked by hand."""
_FINAL = frozenset((400, 403, 404, 409, 413, 422))


class Desk:
    """Where an aggregator takes requests for certificates.

    way: another one than over the network, for tests. audit: told of all that leaves the device.
    """

    def __init__(
        self,
        address: str,
        server: bytes,
        proxy: str = "",
        way: Way | None = None,
        audit: Audit | None = None,
    ) -> None:
        self._audit, self._address = audit, address_of(address, "https")
        self._way = way if way is not None else Link(self._address, server, proxy)

    def close(self) -> None:
        """Close the connections."""
        self._way.close()

    def ask(self, request: Request) -> None:
        """Bring a request to where the CA will see it; again if need be. Unreachable, Refused."""
        answer = self._call("POST", "/v1/enrol", request.data())
        try:
            told = fields.mapping(fields.parse(answer.body, "the answer"), "the answer")
        except WireError as error:
            raise Unreachable(f"the aggregator's answer is not understood: {error}") from None
        if told.get("id") != request.id:
            raise Unreachable("the aggregator has kept another request than this one")

    def answer(self, name: str) -> Grant | None:
        """The CA's answer; None while there is none. Unreachable, Refused."""
        answer = self._call("GET", f"/v1/enrol/{name}")
        if answer.status != 200:
            return None
        try:
            return read_grant(answer.body)
        except WireError as error:
            raise Unreachable(f"the aggregator's answer is not understood: {error}") from None

    def succession(self) -> Succession | None:
        """The announcement of a new CA; None if there is none. Unreachable, Refused."""
        try:
            return read_succession(self._call("GET", "/v1/enrol/next").body)
        except Refused as error:
            if error.status != 404:
                raise
            return None
        except WireError as error:
            raise Unreachable(f"the announcement of a new CA is not understood: {error}") from None

    def _call(self, method: str, path: str, body: bytes = b"") -> Answer:
        told = {"Fedkit-Version": str(VERSION), "Content-Digest": content_digest(body)}
        headers = framed(self._address.place, told, body)
        if self._audit is not None:
            self._audit.request(method, path, headers, body)
        answer = read_short(self._way.send(method, path, headers, body), ANSWER_LIMIT, 0.0)
        word, message = reason(answer)
        if answer.status in _FINAL:
            raise Refused(answer.status, word, message)
        if answer.status not in (200, 202) or "fedkit-version" not in answer.headers:
            raise Unreachable(f"the aggregator answers {answer.status} {word} {message}")
        return answer


def join(
    token: str,
    directory: Path,
    wait: float = 600.0,
    proxy: str = "",
    *,
    way: Way | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Become the client of an invite; `directory` then holds a Membership. Running it again goes on.

    wait: seconds. ConfigError: the invite is none, or refused, or the folder is of another client or in use.
    Unreachable: no answer within that time.
    """
    invite = read_invite(token)
    trust = Trust.of_ca(invite.ca, invite.server)
    with closing(Desk(invite.address, invite.server, proxy, way)) as desk, closing(Root(directory)):
        _demand_same(directory, invite)
        key = keyfile.own_key(directory)
        request = make_request(invite.client, key, invite.once, invite.expires, invite.sanction)
        try:
            granted = _granted(desk, request, wait, sleep)
        except Refused as error:
            raise ConfigError(f"client {invite.client!r} cannot join: {error}") from None
        admit(directory, Asked(invite.address, trust, request, key), *granted, clock())


def rotate(
    directory: Path,
    wait: float = 600.0,
    proxy: str = "",
    *,
    way: Way | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Replace the device's key by a new one, which the CA certifies on the word of the old one.

    Whatever interrupts it, the client goes on with the same new key (renewal.py), and so does this when it is
    run again. ConfigError: the client is running, or has not joined by an invite, or is refused. Unreachable:
    no answer within `wait` seconds.
    """
    read_place(directory)
    with closing(Root(directory)):
        held = read_membership(directory)
        if not held.certificate:
            raise ConfigError(
                f"{directory} is of a roster: make a new key there, and write it into the roster"
            )
        next_key(directory, held)  # done with, if a crash has left it
        key = keyfile.own_key(directory / ROTATION)
        request = wished(directory / REQUEST, held, key, clock())
        with closing(Desk(held.address, held.trust.server, proxy, way)) as desk:
            try:
                granted = _granted(desk, request, wait, sleep)
            except Refused as error:
                give_up(directory, error)
                raise ConfigError(f"client {held.client!r} cannot change its key: {error}") from None
            admit(directory, Asked(held.address, held.trust, request, key), *granted, clock())


def next_key(directory: Path, held: Membership) -> SigningKey:
    """The key that a device asks to have certified: the one that `rotate` has made, else its own."""
    folder = directory / ROTATION
    if not (folder / keyfile.NAME).exists():
        return held.key
    key = keyfile.read_key(folder)
    if key.public == held.key.public:
        _done(directory)  # left by a crash when all was
    return key


def give_up(directory: Path, refusal: Refused) -> None:
    """Forget a new key that the CA has refused; other refusals may be mended."""
    if refusal.word == "refused" and (directory / ROTATION).exists():
        _done(directory)


def wished(path: Path, held: Membership, key: SigningKey, now: float) -> Request:
    """The request for a further certificate that is in the file; else a new one, which is written there."""
    try:
        found = read_request(path.read_bytes())
        if (found.client, found.key, found.by) == (held.client, key.public, held.key.public) and (
            found.until > now
        ):
            return found
    except (OSError, WireError):
        log.debug("no request is under way")
    made = make_request(held.client, key, held.key, int(now + ASKED_FOR.total_seconds()))
    replace_file(path, made.data())
    return made


@dataclass(frozen=True)
class Asked:
    """A request that is under way. trust: whom the device believes as yet; key: what is to be certified."""

    address: str
    trust: Trust
    request: Request
    key: SigningKey = field(repr=False)


def admit(directory: Path, asked: Asked, grant: Grant, heir: Succession | None, now: float) -> Membership:
    """Be what the CA has granted, on the disk, too. heir: the announcement of a CA that takes over, if there
    is one: the grant may be of that.

    ConfigError: it is not the CA's, or not for this request.
    """
    trust, request = asked.trust, asked.request
    if heir is not None:
        trust = heir.applied(trust, now) if heir.concerns(trust) else trust
    pem = grant.certificate.encode()
    try:
        found = read_certificate(pem, trust.cas)
    except CryptoError as error:
        raise ConfigError(f"the aggregator's answer is not of the CA: {error}") from None
    if (found.client, found.key) != (request.client, request.key):
        raise ConfigError("the aggregator's answer is a certificate for another client or key: it lies")
    made = Membership(asked.address, request.client, asked.key, trust, grant.voucher, pem)
    keep(directory, made, heir if trust is not asked.trust else None)
    _done(directory)
    return made


def _done(directory: Path) -> None:
    """Nothing is under way any more."""
    (directory / REQUEST).unlink(missing_ok=True)
    shutil.rmtree(directory / ROTATION, ignore_errors=True)


def _granted(
    desk: Desk, request: Request, wait: float, sleep: Callable[[float], None]
) -> tuple[Grant, Succession | None]:
    """Ask, and look for the answer until it is there, and whether a CA takes over. Unreachable: not within
    `wait` seconds.
    """
    end, pause, asked = time.monotonic() + wait, POLL[0], False
    last: FedkitError = Unreachable("the CA has not answered yet (fedkit ca approve): run it again to go on")
    while True:
        try:
            if not asked:
                desk.ask(request)
                asked = True
                log.info("the aggregator has the request; waiting for the CA (fedkit ca approve)")
            if grant := desk.answer(request.id):
                return grant, desk.succession()
        except Unreachable as error:
            if str(error) != str(last):
                log.info("%s", error)
            last = error
        if time.monotonic() + pause > end:
            raise last
        sleep(pause)
        pause = min(1.5 * pause, POLL[1])


def _demand_same(directory: Path, invite: Invite) -> None:
    """ConfigError if the folder is that of another client, or of another aggregator."""
    if not (directory / ABOUT).exists():
        return
    address, client, trust = read_place(directory)
    if (client, trust.server) != (invite.client, invite.server):
        raise ConfigError(
            f"{directory} is that of client {client!r} at {address}, and the invite is for "
            f"{invite.client!r} at {invite.address}: give another --dir"
        )
