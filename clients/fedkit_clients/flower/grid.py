"""Flower's Grid as a Fleet, and bytes in Flower's records."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from fedkit.errors import WireError
from fedkit_clients.flower.fleet import Call, Reply

log = logging.getLogger("fedkit.flower")

STYPE: Final = "fedkit/1"
"""How Flower is told of our bytes: it passes them on as they are."""
NAME: Final = "fedkit"
CODES: Final = {
    0: "UNKNOWN",
    1: "LOAD_CLIENT_APP_EXCEPTION",
    2: "CLIENT_APP_RAISED_EXCEPTION",
    3: "MESSAGE_UNAVAILABLE",
    4: "REPLY_MESSAGE_UNAVAILABLE",
    5: "NODE_UNAVAILABLE",
    6: "MOD_FAILED_PRECONDITION",
    7: "INVALID_FAB",
    8: "CLIENT_APP_CRASHED",
}
"""Flower's error codes."""
_CLASS = re.compile(r"<class '(?:[\w.]+\.)?(\w{1,80})'>(?::<'(\w{1,80})'>$)?")


class NodeError(Exception):
    """For Flower, which sends an exception's text to the server: this one's is the name of a class."""


def record(blob: bytes) -> ArrayRecord:
    """A blob as one array."""
    return ArrayRecord(OrderedDict({NAME: Array("uint8", (len(blob),), STYPE, blob)}))


def content(blob: bytes) -> RecordDict:
    """What a message with this blob carries."""
    return RecordDict({NAME: record(blob)})


def blob_of(records: RecordDict) -> bytes:
    """The blob in there. WireError: it is not what `content` makes."""
    found = records.get(NAME)
    array = found.get(NAME) if isinstance(found, ArrayRecord) else None
    if array is None or array.stype != STYPE:
        raise WireError("a message without a parcel of fedkit: the other side runs another app")
    data: bytes = array.data
    return data


class GridFleet:
    """The nodes of one Flower run."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._apart = False  # whether a reply could not be read, so that each is pulled by itself

    def nodes(self) -> Sequence[int]:
        """The ids of the nodes that can be reached now."""
        return list(self._grid.get_node_ids())

    def push(self, node: int, call: Call, blob: bytes, ttl: float) -> str:
        """Send; the message's id, empty if it could not be sent."""
        sent = list(self._grid.push_messages([Message(content(blob), node, call, ttl=ttl)]))
        return sent[0] or "" if sent else ""

    def pull(self, messages: Sequence[str]) -> Sequence[Reply]:
        """Those replies that have come; UNREADABLE and a class for one at which Flower raises."""
        if not self._apart:
            try:
                return self._pulled(list(messages))
            except Exception:
                log.exception("Flower cannot read a reply: from now on each is pulled by itself")
                self._apart = True  # one node's bytes take those with them that were pulled beside
        return [reply for message in messages for reply in self._one(message)]

    def _one(self, message: str) -> Sequence[Reply]:
        try:
            return self._pulled([message])
        except Exception as error:  # noqa: BLE001 - whatever Flower makes of a node's bytes
            return [Reply(message, b"", ("UNREADABLE", type(error).__name__))]

    def _pulled(self, messages: list[str]) -> list[Reply]:
        return [_reply(message) for message in self._grid.pull_messages(messages)]


def _reply(message: Message) -> Reply:
    told = message.metadata.reply_to_message_id
    if message.has_error():
        return Reply(told, b"", _error(message.error))
    try:
        return Reply(told, blob_of(message.content))
    except WireError:
        return Reply(told, b"", ("NO_PARCEL", ""))


def _error(error: Error) -> tuple[str, str]:
    """Code and class; the text may hold what is a client's own, and stays in the node's log."""
    found = _CLASS.match(error.reason or "")
    kind = "" if found is None else found[2] if found[1] == NodeError.__name__ and found[2] else found[1]
    return CODES.get(error.code, f"CODE_{error.code}"), kind
