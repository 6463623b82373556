"""What an aggregator offers, brought to the disk of a device, or to its memory, or passed over."""

from __future__ import annotations

import logging

from fedkit.errors import WireError
from fedkit.messages import ClientId, Key
from fedkit_clients.edge.answers import Fruitless, OtherRun, Refused
from fedkit_clients.edge.fetching import framed
from fedkit_clients.edge.joined import Joined
from fedkit_clients.edge.offers import Blob, Offer
from fedkit_clients.edge.packed import read_task

log = logging.getLogger("fedkit.edge")


def take(joined: Joined, client: ClientId, offer: Offer) -> bool:
    """Bring a task to the disk, unless it is there or void, and its model unless it will be declined; whether
    it did.
    """
    if joined.spool.knows(offer.frame.sha256):
        return False
    try:
        frame = framed(joined, offer.frame)
        task = read_task(frame)
        if task.key.job != joined.job.id:
            raise OtherRun(f"a task of job {task.key.job} came, {joined.job.id} was joined")
        if task.key.client != client or task.version != offer.version:
            raise WireError(f"it is for client {task.key.client!r} and version {task.version}")
        if joined.spool.name(task.key) is not None:
            return False
        if not joined.device.declines(joined.job, task, offer.frame.sha256):
            joined.models.bring(offer)
        joined.spool.take(offer.frame.sha256, offer.model.sha256, frame)
        joined.spool.drop_parts(offer.blobs)
        return True
    except WireError as error:
        log.error("task %d is not one for us and dropped: %s", offer.id, error)
    except Refused as error:
        if error.status != 404:
            raise
        log.info("task %d is gone: %s", offer.id, error)
    return False


def take_last(joined: Joined, client: ClientId, version: int, blob: Blob) -> None:
    """The model of a run that is over; it may be gone again."""
    try:
        joined.take_last(client, version, blob)
    except Refused as error:
        if error.status != 404:
            raise
        log.info("the last model is gone: %s", error)


def hear(joined: Joined, blob: Blob) -> Key | None:
    """A message of a secure session, unless it was heard before. It is named until it is answered."""
    if joined.talk.knows(blob.sha256):
        if not joined.talk.busy:
            raise Fruitless("the aggregator asks again what was answered")
        return None
    try:
        key = joined.talk.hear(blob.sha256, framed(joined, blob))
        joined.spool.drop_parts([blob])
        return key
    except WireError as error:
        raise Fruitless(f"a message of a secure session is not understood: {error}") from error
    except Refused as error:
        if error.status != 404:
            raise
        log.info("a message of a secure session is gone: %s", error)
    return None
