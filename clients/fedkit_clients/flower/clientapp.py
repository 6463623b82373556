"""What a ClientApp does: say who the node is, and work.

app = ClientApp()
app.query("hello")(hello)
app.train()(work)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from flwr.app import Context, Message

from fedkit_clients.flower.grid import NAME, NodeError, blob_of, content, record
from fedkit_clients.flower.guard import demand_flower
from fedkit_clients.flower.node import Kept, answer
from fedkit_clients.flower.parcel import Row, pack
from fedkit_clients.flower.setup import node_setup

log = logging.getLogger("fedkit.flower")


def hello(message: Message, context: Context) -> Message:
    """Which clients this node is, and how much it remembers."""
    with _quietly():
        demand_flower()
        clients = node_setup(context.node_config, context.run_config).clients
        turn = Kept.read(_state(context)).turn
        return Message(content(pack([Row("hello", (turn, *clients))])), reply_to=message)


def work(message: Message, context: Context) -> Message:
    """Do what the parcel asks, and keep what is to be remembered in the context."""
    with _quietly():
        node = node_setup(context.node_config, context.run_config)
        made = answer(blob_of(message.content), _state(context), node)
        context.state[NAME] = record(made.state)
        return Message(content(made.parcel), reply_to=message)


@contextmanager
def _quietly() -> Iterator[None]:
    """What goes wrong is told in this node's log; the server learns the class."""
    try:
        yield
    except Exception as error:
        log.exception("this node cannot do what it is asked")
        raise NodeError(type(error).__name__) from None


def _state(context: Context) -> bytes:
    return blob_of(context.state) if NAME in context.state else b""
