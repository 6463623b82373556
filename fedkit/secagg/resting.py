"""A client's machine between two messages, as bytes: for clients whose process ends after each message.

The bytes hold the secrets of one session. They are for the client's own memory and never travel; they have
a form of their own, which nothing that reads from the network takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from fedkit import fields
from fedkit.errors import WireError

MAGIC: Final = b"fedkit resting machine 1\n"
STEPS: Final = ("share", "accept", "agree", "unmask")
"""Before which steps a machine may rest; `mask` follows `accept` within one message."""
_TABLES: Final = ("inbox", "held")
_BYTES: Final = ("header", "advert", "roster", "link", "mask", "box", "own", "sharers", "survivors")


@dataclass(frozen=True)
class Resting:
    """next: the step that comes next. What is not known yet, or gone already, is empty.

    mask, box, own, inbox, held: what is in the vault. sharers, survivors: bits.
    """

    next: str
    header: bytes
    advert: bytes
    roster: bytes = b""
    link: bytes = field(default=b"", repr=False)
    mask: bytes = field(default=b"", repr=False)
    box: bytes = field(default=b"", repr=False)
    own: bytes = field(default=b"", repr=False)
    inbox: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    held: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    sharers: bytes = b""
    survivors: bytes = b""

    def to_bytes(self) -> bytes:
        """What `from_bytes` reads."""
        content: dict[str, object] = {name: getattr(self, name).hex() for name in _BYTES}
        for name in _TABLES:
            content[name] = {str(number): one.hex() for number, one in getattr(self, name).items()}
        return MAGIC + json.dumps({"next": self.next, **content}, sort_keys=True).encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> Resting:
        """WireError: anything that `to_bytes` does not make."""
        if not data.startswith(MAGIC):
            raise WireError("not a machine at rest, or one of another version of fedkit")
        top = fields.mapping(fields.parse(data[len(MAGIC) :], "machine"), "machine")
        fields.exactly(top, "next", *_BYTES, *_TABLES)
        if (step := fields.text(top["next"], "next")) not in STEPS:
            raise WireError(f"no machine rests before the step {step!r}")
        header, advert, *known = (_hex(top[name], name) for name in _BYTES)
        roster, link, mask, box, own, sharers, survivors = known
        inbox, held = (_table(top[name], name) for name in _TABLES)
        return cls(step, header, advert, roster, link, mask, box, own, inbox, held, sharers, survivors)


def _table(value: object, name: str) -> dict[int, bytes]:
    given = fields.mapping(value, name)
    if odd := [key for key in given if not key.isdecimal()]:
        raise WireError(f"{name}: {odd[0]!r} is no client's number")
    return {int(key): _hex(one, name) for key, one in given.items()}


def _hex(value: object, name: str) -> bytes:
    try:
        return bytes.fromhex(fields.text(value, name))
    except ValueError:
        raise WireError(f"{name} is not hexadecimal") from None
