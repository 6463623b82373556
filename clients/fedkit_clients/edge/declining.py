"""A device that cannot take part in the run that is served: it says so to each task, and why in a word.

It stays reachable and holds nobody up: the round hears at once what else its deadline would tell. Nothing is
written down: a task that was not answered is offered again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fedkit import wire
from fedkit.errors import WireError
from fedkit.messages import ClientId, Failure, Key
from fedkit.secagg.messages import FromServer
from fedkit_clients.edge.answers import UNWANTED, Refused, Unfit
from fedkit_clients.edge.files import remove
from fedkit_clients.edge.offers import Blob, News
from fedkit_clients.edge.packed import read_task
from fedkit_clients.edge.transport import Transport

log = logging.getLogger("fedkit.edge")
PART = "declined"
"""What came of a frame that is fetched to be declined, in the client's folder."""
LARGEST = 1 << 24
"""Bytes of a frame that is fetched for that."""
KNOWN = 1024
"""Keys that are remembered: what was declined is not declined again."""


@dataclass
class Declining:
    """A run that is not for this client. subject: why, in a word or none. folder: the client's."""

    run: str
    why: Unfit
    subject: str
    client: ClientId
    folder: Path
    ca: bytes = b""
    """The CA that takes over, by the aggregator's word."""
    _known: dict[Key, None] = field(default_factory=dict)
    _heeded: list[Key] = field(default_factory=list)

    def step(self, transport: Transport, patience: int) -> bool:
        """Ask, and decline what is asked; whether there was anything new. OtherRun: another one is served."""
        transport.run = self.run
        news = transport.news(patience, settled=self._heeded)
        self._heeded, self.ca = [key for key, _ in news.settled], news.ca
        fresh = [key for key in self._asked(transport, news) if key not in self._known]
        for key in fresh:
            self._decline(transport, key)
            self._known[key] = None
        while len(self._known) > KNOWN:
            del self._known[next(iter(self._known))]
        return bool(fresh)

    def _asked(self, transport: Transport, news: News) -> Iterator[Key]:
        """What is to be answered: tasks, and messages of their sessions."""
        frames = [(offer.frame, True) for offer in news.offers] + [(blob, False) for blob in news.messages]
        for blob, is_task in frames:
            try:
                frame = self._frame(transport, blob)
                key = read_task(frame).key if is_task else _message(frame)
                if key.client == self.client:
                    yield key
            except WireError as error:
                log.error("what is no task is not declined: %s", error)
            except Refused as error:
                if error.status not in UNWANTED:
                    raise

    def _frame(self, transport: Transport, blob: Blob) -> bytes:
        if blob.data is not None:
            return blob.data
        if blob.bytes > LARGEST:
            raise WireError(f"its frame has {blob.bytes} bytes")
        part = self.folder / PART
        remove(part)
        try:
            return transport.blob(blob, part)
        finally:
            remove(part)

    def _decline(self, transport: Transport, key: Key) -> None:
        try:
            transport.upload(key, wire.encode(Failure(key, "refused", "", self.subject)))
            log.error("round %d: declined (%s): %s", key.round + 1, self.subject or "unfit", self.why)
        except Refused as error:
            if error.status not in UNWANTED:
                raise


def _message(frame: bytes) -> Key:
    message = wire.decode(frame)
    if not isinstance(message, FromServer):
        raise WireError("not a message of a secure session")
    return message.key
