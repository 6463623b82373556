"""A Fleet across a socket on this machine: the run is in one process, Flower's ServerApp in another.

Each call is one frame there and one back: 8 bytes of length, then a parcel. The socket lies in a folder that
is its owner's alone.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from fedkit import fields
from fedkit.errors import RunFailed, WireError
from fedkit_clients.flower.fleet import Call, Fleet, Reply
from fedkit_clients.flower.parcel import LIMIT, Row, only, pack, unpack

_CALLS = ("nodes", "push", "pull")


class BridgeFleet:
    """The fleet of a ServerApp that serves this socket. RunFailed: the ServerApp is gone, or has failed.

    failed: makes that error of what has happened; whoever has started Flower's programs knows their logs.
    """

    def __init__(self, connection: socket.socket, failed: Callable[[str], RunFailed] = RunFailed) -> None:
        self._connection, self._failed = connection, failed

    def nodes(self) -> Sequence[int]:
        """The ids of the nodes that can be reached now."""
        told = only(self._ask(Row("nodes")), "nodes").fields
        return [int(fields.text(number, "node")) for number in told]

    def push(self, node: int, call: Call, blob: bytes, ttl: float) -> str:
        """Send; the message's id, empty if it could not be sent."""
        return fields.text(only(self._ask(Row("push", (str(node), call, ttl), blob)), "push").fields[0], "id")

    def pull(self, messages: Sequence[str]) -> Sequence[Reply]:
        """Those replies that have come."""
        return [_reply(row) for row in self._ask(Row("pull", tuple(messages))) if row.kind == "pull"]

    def close(self) -> None:
        """The ServerApp ends when it sees this."""
        self._connection.close()

    def _ask(self, row: Row) -> list[Row]:
        try:
            _send(self._connection, pack([row]))
            rows = unpack(_receive(self._connection), "error", "nodes", "push", "pull", "end")
        except (OSError, EOFError) as error:
            raise self._failed("Flower's ServerApp has ended") from error
        if rows and rows[0].kind == "error":
            raise self._failed(f"Flower's Grid failed with {rows[0].fields[0]}")
        return rows


def serve(path: Path, fleet: Fleet) -> None:
    """Answer for a fleet, until the other side closes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        while True:
            try:
                (row,) = unpack(_receive(connection), *_CALLS)
            except EOFError:
                return
            _send(connection, pack(_called(fleet, row)))


def _called(fleet: Fleet, row: Row) -> list[Row]:
    try:
        match row:
            case Row("nodes"):
                return [Row("nodes", tuple(map(str, fleet.nodes())))]
            case Row("push", (str(node), "train" | "query.hello" as word, int() | float() as ttl), blob):
                call: Call = "train" if word == "train" else "query.hello"
                return [Row("push", (fleet.push(int(node), call, blob, ttl),))]
            case _:
                messages = [fields.text(one, "id") for one in row.fields]
                return [_row(reply) for reply in fleet.pull(messages)]
    except Exception as error:  # noqa: BLE001 - whatever Flower raises is for the run to know
        return [Row("error", (type(error).__name__,))]


def _row(reply: Reply) -> Row:
    return Row("pull", (reply.message, *(reply.error or ())), reply.blob)


def _reply(row: Row) -> Reply:
    message, *error = (fields.text(one, "reply") for one in row.fields)
    return Reply(message, row.data, (error[0], error[1]) if error else None)


def _send(connection: socket.socket, data: bytes) -> None:
    connection.sendall(len(data).to_bytes(8, "little"))
    connection.sendall(data)


def _receive(connection: socket.socket) -> bytes:
    length = int.from_bytes(_exactly(connection, 8), "little")
    if length > LIMIT:
        raise WireError(f"a frame of {length} bytes is over the limit of {LIMIT}")
    return _exactly(connection, length)


def _exactly(connection: socket.socket, length: int) -> bytes:
    parts, left = [], length
    while left:
        part = connection.recv(min(left, 1 << 20))
        if not part:
            raise EOFError("the other side has closed")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
