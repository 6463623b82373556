"""A certificate is renewed when it is half over, while the client goes on with the same key."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from fedkit.errors import ConfigError, CryptoError, RunFailed
from fedkit.secagg.identity import fingerprint
from fedkit_clients.edge.answers import Refused, Unreachable
from fedkit_clients.edge.enrolment import REQUEST, Desk, admitted, wished
from fedkit_clients.edge.membership import Membership, announced, believed, keep

log = logging.getLogger("fedkit.edge")

EVERY, DAY = 3600.0, 86_400.0
"""Seconds between two looks while a certificate is due, and while none is."""


class Renewal:
    """Keeps the certificate of `held` good. desk: opens the way to the aggregator. clock: unix time."""

    def __init__(
        self,
        directory: Path,
        held: Membership,
        desk: Callable[[], Desk],
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory, self.held, self._desk = directory, held, desk
        self._clock, self._steady = clock, steady
        self._half, self._next = held.half, steady() if held.certificate else math.inf

    def look(self) -> bool:
        """If it is time: hear of a new CA, ask for a certificate, fetch it. What goes wrong is logged, and
        tried again. Returns whether the client has another voucher, or believes another CA, than before.
        """
        if self._steady() < self._next:
            return False
        before, self._next = (self.held.trust, self.held.voucher), self._steady() + EVERY
        try:
            with closing(self._desk()) as desk:
                self._hear(desk)
                if self._clock() >= self._half:
                    self._renew(desk)
                else:
                    self._next = self._steady() + DAY
        except Unreachable as error:
            due = self._clock() >= self._half
            log.info("%s: %s", "the certificate is not renewed yet" if due else "no news of the CA", error)
        except (ConfigError, CryptoError, Refused, RunFailed, OSError) as error:
            log.error("the certificate cannot be renewed: %s", error)
        return before != (self.held.trust, self.held.voucher)

    def _hear(self, desk: Desk) -> None:
        """Believe the CA that takes over, if the old one says so."""
        heir, now = desk.succession(), self._clock()
        trust = believed(self._directory, self.held.trust, now)
        if heir is None or (made := heir.applied(trust, now)) == self.held.trust:
            return
        held = replace(self.held, trust=made)
        announced(self._directory, heir, trust)
        self.held = held
        log.warning("a new CA takes over: %s", fingerprint(heir.ca))

    def _renew(self, desk: Desk) -> None:
        path, held = self._directory / REQUEST, self.held
        request = wished(path, held, held.key, self._clock())
        desk.ask(request)
        grant = desk.answer(request.id)
        if grant is None:
            log.info("the certificate is half over: the CA is asked for the next")
            return
        made = admitted(held.address, held.trust, request, held.key, grant)
        keep(self._directory, made)
        path.unlink(missing_ok=True)
        self.held, self._half = made, made.half
        log.info("the certificate is renewed")
