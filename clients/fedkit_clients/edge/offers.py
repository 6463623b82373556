"""What the aggregator tells a client when it asks for tasks (docs/edge-protocol.md)."""

from __future__ import annotations

from dataclasses import dataclass

from fedkit import fields
from fedkit.errors import WireError, shown
from fedkit.federation import Verdict
from fedkit.fields import Fields
from fedkit.messages import Key
from fedkit.wire import read_key


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes known by their digest. sha256: 64 hex digits. bytes: how many there are."""

    sha256: str
    bytes: int


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
    """One answer to a poll, verdicts before tasks. now: on the clock of the run."""

    now: float
    settled: tuple[tuple[Key, Verdict], ...]
    offers: tuple[Offer, ...]


def read_news(data: bytes) -> News:
    """The answer in `data`; WireError on anything else."""
    top = fields.mapping(fields.parse(data, "tasks"), "tasks")
    settled = [_settled(row) for row in fields.items(top.get("settled"), "settled")]
    offers = [_offer(fields.mapping(row, "task")) for row in fields.items(top.get("tasks"), "tasks")]
    now = fields.number(top.get("now"), "now")
    return News(now, tuple(settled), tuple(offers))


def _settled(row: object) -> tuple[Key, Verdict]:
    *key, verdict = fields.items(row, "settled", 7)
    word = fields.text(verdict, "verdict")
    if word not in Verdict.__members__:
        raise WireError(f"settled: {shown(word)} is no verdict")
    return read_key(key), Verdict(word)


def _offer(row: Fields) -> Offer:
    given = row.get("difference")
    difference = _difference(fields.mapping(given, "difference")) if given is not None else None
    frame = {"sha256": row.get("frame"), "bytes": row.get("bytes")}
    model = fields.mapping(row.get("model"), "model")
    version = fields.integer(row.get("version"), "version", 1)
    return Offer(fields.integer(row.get("id"), "id"), _blob(frame), version, _blob(model), difference)


def _difference(row: Fields) -> Difference:
    base = fields.integer(row.get("base"), "difference: base", 1)
    return Difference(base, fields.integer(row.get("told_by"), "difference: told_by"), _blob(row))


def _blob(row: Fields) -> Blob:
    digest = fields.text(row.get("sha256"), "sha256")
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise WireError("sha256 is not 64 hex digits")
    return Blob(digest, fields.integer(row.get("bytes"), "bytes"))
