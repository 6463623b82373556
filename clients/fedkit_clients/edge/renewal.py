"""A certificate is renewed when it is half over, while the client goes on with the same key."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from fedkit.errors import ConfigError
from fedkit_clients.edge.answers import Refused, Unreachable
from fedkit_clients.edge.enrolment import REQUEST, Desk, admitted, wished
from fedkit_clients.edge.membership import Membership, keep

log = logging.getLogger("fedkit.edge")

EVERY = 3600.0
"""Seconds between two looks."""


class Renewal:
    """Keeps the certificate of a membership good. desk: opens the way to the aggregator. clock: unix time."""

    def __init__(
        self,
        directory: Path,
        held: Membership,
        desk: Callable[[], Desk],
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory, self._held, self._desk = directory, held, desk
        self._clock, self._steady = clock, steady
        self._half, self._next = held.half, steady()

    def look(self) -> None:
        """Ask for a certificate, or fetch it, if it is time; what goes wrong is logged and tried again."""
        if self._steady() < self._next or self._clock() < self._half:
            return
        self._next = self._steady() + EVERY
        try:
            self._renew()
        except Unreachable as error:
            log.info("the certificate is not renewed yet: %s", error)
        except (ConfigError, Refused, OSError) as error:
            log.error("the certificate cannot be renewed: %s", error)

    def _renew(self) -> None:
        path, held = self._directory / REQUEST, self._held
        request = wished(path, held, held.key, self._clock())
        with closing(self._desk()) as desk:
            desk.ask(request)
            grant = desk.answer(request.id)
        if grant is None:
            log.info("the certificate is half over: the CA is asked for the next")
            return
        made = admitted(held.address, held.trust, request, held.key, grant)
        keep(self._directory, made)
        path.unlink(missing_ok=True)
        self._held, self._half = made, made.half
        log.info("the certificate is renewed")
