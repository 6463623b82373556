"""What the server and a client of a secure session say to each other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fedkit.messages import Key


class Stage(StrEnum):
    """The stages of a session, in their order; with an honest server `agree` is left out."""

    advertise = "advertise"
    share = "share"
    mask = "mask"
    agree = "agree"
    unmask = "unmask"


@dataclass(frozen=True, slots=True)
class FromServer:
    """A message to one client; key.stage says which. Only `fedkit.secagg` reads the body."""

    key: Key
    body: bytes


@dataclass(frozen=True, slots=True)
class FromClient:
    """A client's answer to the message of the same key."""

    key: Key
    body: bytes
