"""Who contradicted itself in a secure session: in no other one of the job, whatever dies in between."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol

from fedkit.messages import ClientId
from fedkit.secagg.evidence import Answers, Evidence

log = logging.getLogger("fedkit")


class Ledger(Protocol):
    """Where it is written down."""

    def quarantine(self, clients: Mapping[ClientId, str]) -> None:
        """All who are in quarantine, and why, durably."""
        ...

    def evidence(self, found: Evidence) -> None:
        """Proof that a client contradicted itself."""
        ...


class Quarantine:
    """clients: who said two different things, and what. Names are on disk before anything else is done: a
    server that dies then asks them as little as one that lives; proof follows.
    """

    def __init__(self, ledger: Ledger, clients: Mapping[ClientId, str]) -> None:
        self.clients, self._ledger = dict(clients), ledger
        self._proofs = set[Evidence]()

    def take(self, answers: Answers) -> None:
        """Take whoever was caught in a session, as soon as it is."""
        fresh = {client: why for client, why in answers.caught.items() if client not in self.clients}
        if fresh:
            self.clients |= fresh
            self._ledger.quarantine(self.clients)
        for client, why in sorted(fresh.items()):
            log.warning("client %s sent %s: it is in no secure session of this job again", client, why)
        for found in answers.evidence:
            if found not in self._proofs:
                self._proofs.add(found)
                self._ledger.evidence(found)
