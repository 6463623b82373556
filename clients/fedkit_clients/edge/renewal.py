"""While a client runs: its certificate is renewed when half over, and a CA that takes over is believed.

A change of key that was interrupted goes on here, too.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from fedkit.errors import ConfigError, CryptoError, RunFailed
from fedkit.secagg.identity import SigningKey, Trust, fingerprint
from fedkit_clients.edge.answers import Refused, Unreachable
from fedkit_clients.edge.enrolment import REQUEST, Asked, Desk, admit, give_up, next_key, wished
from fedkit_clients.edge.membership import Membership, keep, succeeded

log = logging.getLogger("fedkit.edge")

AGAIN, EVERY, DAY, SHORTEST = 30.0, 3600.0, 86_400.0, 1.0
"""Most seconds between two looks without a link, while a certificate is due, while none is; and the least."""


class Renewal:
    """Keeps the certificate of `held` good. desk: opens the way to the aggregator. clock: unix time.

    ahead: seconds of the aggregator's clock over this one: it says when to ask, for many devices start with
    none that is right. Whom to believe, and until when, is a matter of the device's own.
    """

    def __init__(
        self,
        directory: Path,
        held: Membership,
        desk: Callable[[], Desk],
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        ahead: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._directory, self.held, self._desk = directory, held, desk
        self._clock, self._steady, self._ahead = clock, steady, ahead
        self._next = steady() if held.certificate else math.inf
        self._named = b""
        self._half = self._patience = 0.0
        self._measure()

    def due(self, named: bytes = b"") -> bool:
        """Whether it is time to look. named: the CA that takes over, by the aggregator's word."""
        if named and self.held.certificate and named not in (self._named, *self.held.trust.cas):
            self._named, self._next = named, self._steady()
        return self._steady() >= self._next

    def look(self) -> bool:
        """If it is time: hear of a new CA, ask for a certificate, fetch it. What goes wrong is logged, and
        tried again. Returns whether the client has another key or voucher, or believes another CA.
        """
        if not self.due():
            return False
        before, self._next = (self.held.trust, self.held.voucher), self._steady() + self._patience
        try:
            self._look()
        except Unreachable as error:
            self._named, self._next = b"", self._steady() + min(AGAIN, self._patience)
            log.info("the CA cannot be asked: %s", error)
        except (ConfigError, CryptoError, Refused, RunFailed, OSError) as error:
            log.error("the certificate cannot be renewed: %s", error)
        return before != (self.held.trust, self.held.voucher)

    def _look(self) -> None:
        now, key = self._clock(), next_key(self._directory, self.held)
        self._believe(succeeded(self._directory, self.held.trust, now))
        asks = now + self._ahead() >= self._half or key.public != self.held.key.public
        hears = self._named not in (b"", *self.held.trust.cas)
        if hears or asks:
            with closing(self._desk()) as desk:
                if hears:
                    self._hear(desk, now)
                if asks:
                    self._renew(desk, key, now)
        if not asks:
            self._next = self._next_time()

    def _measure(self) -> None:
        """Of the certificate: when it is half over, and how long to wait then between two looks."""
        self._half = self.held.half
        if self.held.certificate:
            self._patience = min(EVERY, max(SHORTEST, (self.held.ends - self._half) / 20))

    def _next_time(self) -> float:
        """When there is something to do: at half of the certificate, and each day the clock is looked at."""
        return self._steady() + min(DAY, max(SHORTEST, self._half - self._clock() - self._ahead()))

    def _believe(self, trust: Trust) -> None:
        if trust != self.held.trust:
            self.held = replace(self.held, trust=trust)

    def _hear(self, desk: Desk, now: float) -> None:
        """Believe the CA that takes over, if it and the one that is believed say so."""
        heir = desk.succession()
        if heir is None or not heir.concerns(self.held.trust):
            log.error("a new CA is named, and the one that is believed does not say so")
            return
        self._believe(heir.applied(self.held.trust, now))
        keep(self._directory, self.held, heir)
        log.warning("a new CA takes over: %s", fingerprint(heir.ca))

    def _renew(self, desk: Desk, key: SigningKey, now: float) -> None:
        held = self.held
        request = wished(self._directory / REQUEST, held, key, now + self._ahead())
        try:
            desk.ask(request)
            grant = desk.answer(request.id)
        except Refused as error:
            give_up(self._directory, error)
            raise
        if grant is None:
            log.info("the CA is asked for a certificate")
            return
        asked = Asked(held.address, held.trust, request, key)
        self.held = admit(self._directory, asked, grant, desk.succession(), now)
        self._measure()
        self._next = self._next_time()
        log.info("the certificate is renewed")
