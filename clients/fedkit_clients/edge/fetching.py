"""Blobs that a client fetches, by way of files that keep what came of them."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from fedkit.errors import WireError
from fedkit_clients.edge.files import newest_first, remove
from fedkit_clients.edge.joined import Joined
from fedkit_clients.edge.models import Fetch
from fedkit_clients.edge.offers import Blob
from fedkit_clients.edge.spool import Spool
from fedkit_clients.edge.transport import Transport

PARTS = 4
"""Downloads that are kept although nothing has asked for them since; one more is the one under way."""
FRAME, CONTEXT = 1 << 21, 16
"""Most bytes of a task's frame beside its context, and how many models that may hold."""


def framed(joined: Joined, blob: Blob) -> bytes:
    """The frame in a blob. WireError: it is longer than any."""
    if blob.bytes > FRAME + CONTEXT * joined.job.layout.nbytes:
        raise WireError(f"its frame has {blob.bytes} bytes")
    return joined.fetch(blob) if blob.data is None else blob.data


def fetching(transport: Transport, spool: Spool) -> Fetch:
    """How blobs come to a client with this spool."""
    return partial(_fetched, transport, spool.folder / "parts")


def _fetched(transport: Transport, folder: Path, blob: Blob) -> bytes:
    """A blob, by way of a file that keeps what came of it when the link is cut."""
    for path in newest_first(folder)[PARTS:]:
        remove(path)
    part = folder / blob.sha256
    if part.exists() and not os.access(part, os.R_OK | os.W_OK):
        remove(part)
    return transport.blob(blob, part)
