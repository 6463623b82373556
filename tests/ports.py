"""Ports for servers that are started later, stopped and started again."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved() -> Iterator[int]:
    """A port of loopback that nobody else is given while the context is open.

    Linux lets a server that sets SO_REUSEADDR, as all of ours do, bind beside a socket that does not listen;
    other systems do not, and there the port is merely free now.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port = int(held.getsockname()[1])
        if sys.platform != "linux":
            held.close()
        yield port
