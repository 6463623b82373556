"""What travels in one Flower message, and what a node keeps between two: rows of JSON, each with bytes.

    8  "FKPARCEL"        4  length of the index, little-endian
       the index: JSON, a list of [kind, field ..., length]
       the bytes of all rows, in order

Flower moves it as one array of bytes. Whoever reads one names the kinds that may be in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final, NamedTuple

from fedkit import fields
from fedkit.errors import WireError, shown

MAGIC: Final = b"FKPARCEL"
INDEX_LIMIT: Final = 1 << 24
LIMIT: Final = 1 << 32
"""Most bytes of a parcel."""
_START: Final = len(MAGIC) + 4


class Row(NamedTuple):
    """kind: a word. fields: what JSON can say."""

    kind: str
    fields: tuple[object, ...] = ()
    data: bytes = b""


def pack(rows: Iterable[Row]) -> bytes:
    """The parcel of these rows."""
    given = list(rows)
    index = json.dumps([[row.kind, *row.fields, len(row.data)] for row in given]).encode("ascii")
    return b"".join((MAGIC, len(index).to_bytes(4, "little"), index, *(row.data for row in given)))


def unpack(data: bytes, *kinds: str) -> list[Row]:
    """The rows of a parcel. WireError: it is none, or has a row of none of these kinds."""
    if not data.startswith(MAGIC) or len(data) < _START:
        raise WireError("not a parcel of fedkit")
    if len(data) > LIMIT:
        raise WireError(f"a parcel of {len(data)} bytes is over the limit of {LIMIT}")
    at = _START + int.from_bytes(data[len(MAGIC) : _START], "little")
    if at > min(len(data), _START + INDEX_LIMIT):
        raise WireError("the index of a parcel is longer than the parcel or than its limit")
    rows = []
    for given in fields.items(fields.parse(data[_START:at], "index"), "index"):
        kind, *rest = fields.items(given, "row")
        if kind not in kinds or not rest:
            raise WireError(f"a row of kind {shown(str(kind))}, not of {', '.join(kinds)}")
        length = fields.integer(rest.pop(), "length", 0, len(data) - at)
        rows.append(Row(str(kind), tuple(rest), data[at : at + length]))
        at += length
    if at != len(data):
        raise WireError(f"a parcel with {len(data) - at} bytes too many")
    return rows


def only(rows: Iterable[Row], kind: str) -> Row:
    """The one row of this kind. WireError: there is none, or more."""
    found = [row for row in rows if row.kind == kind]
    if len(found) != 1:
        raise WireError(f"{len(found)} rows of kind {kind!r}, not one")
    return found[0]
