"""What the aggregator tells a client when it asks for tasks (docs/edge-protocol.md)."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TypeAlias

from fedkit import fields
from fedkit.ca.texts import octets
from fedkit.errors import WireError, shown
from fedkit.federation import Verdict
from fedkit.fields import Fields
from fedkit.messages import Key
from fedkit.wire import read_key

MOST_TOLD = 256
"""Verdicts in one answer, and tasks: no more may be acknowledged at once."""

Data: TypeAlias = bytes  # within Blob, `bytes` is a field


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes known by their digest. sha256: 64 hex digits. bytes: how many there are.

    data: the bytes themselves, where they came along; else they must be fetched.
    """

    sha256: str
    bytes: int
    data: Data | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """What leads to a model from version `base`, told by the frame of version `told_by` (0: told whole)."""

    base: int
    told_by: int
    blob: Blob


@dataclass(frozen=True, slots=True)
class Offer:
    """A task that is leased to this client. frame: the task without its model, which is of `version`."""

    id: int
    frame: Blob
    version: int
    model: Blob
    difference: Difference | None

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """All blobs that it names."""
        return (self.frame, self.model, *((self.difference.blob,) if self.difference else ()))


@dataclass(frozen=True, slots=True)
class News:
    """One answer to a poll, verdicts before tasks. now: on the clock of the run. messages: frames of what
    secure sessions say; each is named until it is answered. ca: the key of a CA that takes over, if one does.
    last: version and model of a run that is over.
    """

    now: float
    settled: tuple[tuple[Key, Verdict], ...]
    offers: tuple[Offer, ...]
    messages: tuple[Blob, ...] = ()
    ca: bytes = b""
    last: tuple[int, Blob] | None = None


def read_news(data: bytes) -> News:
    """The answer in `data`; WireError on anything else."""
    top = fields.mapping(fields.parse(data, "tasks"), "tasks")
    settled = [_settled(row) for row in fields.items(top.get("settled"), "settled")]
    offers = [_offer(fields.mapping(row, "task")) for row in fields.items(top.get("tasks"), "tasks")]
    if max(len(settled), len(offers)) > MOST_TOLD:
        raise WireError(f"more than {MOST_TOLD} verdicts or tasks in one answer")
    said = fields.items(top.get("messages"), "messages")
    messages = [_blob_of(fields.mapping(row, "message"), "frame") for row in said]
    named = fields.text(top.get("ca"), "ca")
    ca = octets(named, "ca", 32) if named else b""
    now, told = fields.number(top.get("now"), "now"), top.get("last")
    last = _last(fields.mapping(told, "last")) if told is not None else None
    return News(now, tuple(settled), tuple(offers), tuple(messages), ca, last)


def _last(told: Fields) -> tuple[int, Blob]:
    return fields.integer(told.get("version"), "version", 1), _blob_of(told, "sha256")


def _settled(row: object) -> tuple[Key, Verdict]:
    *key, verdict = fields.items(row, "settled", 7)
    word = fields.text(verdict, "verdict")
    if word not in Verdict.__members__:
        raise WireError(f"settled: {shown(word)} is no verdict")
    return read_key(key), Verdict(word)


def _offer(row: Fields) -> Offer:
    given = row.get("difference")
    difference = _difference(fields.mapping(given, "difference")) if given is not None else None
    model = fields.mapping(row.get("model"), "model")
    version, number = fields.integer(row.get("version"), "version", 1), fields.integer(row.get("id"), "id")
    return Offer(number, _blob_of(row, "frame"), version, _blob_of(model, "sha256"), difference)


def _difference(row: Fields) -> Difference:
    base = fields.integer(row.get("base"), "difference: base", 1)
    told_by = fields.integer(row.get("told_by"), "difference: told_by")
    return Difference(base, told_by, _blob_of(row, "sha256"))


def _blob_of(row: Fields, name: str) -> Blob:
    """The blob whose digest stands under `name`."""
    digest = fields.text(row.get(name), name)
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise WireError(f"{name} is not 64 hex digits")
    size, given = fields.integer(row.get("bytes"), "bytes"), row.get("data")
    if given is None:
        return Blob(digest, size)
    try:
        data = base64.b64decode(fields.text(given, "data"), validate=True)
    except ValueError as error:
        raise WireError(f"data of {name} is not in base64") from error
    if (len(data), hashlib.sha256(data).hexdigest()) != (size, digest):
        raise WireError(f"data of {name} is not what its digest says")
    return Blob(digest, size, data)
