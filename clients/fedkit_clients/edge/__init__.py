"""The edge client: a small process that trains what an aggregator asks, over links that break."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedkit_clients.edge.enrolment import join, rotate
    from fedkit_clients.edge.membership import Membership, member, of_roster, read_membership
    from fedkit_clients.edge.root import Root
    from fedkit_clients.edge.runtime import EdgeClient
    from fedkit_clients.edge.start import serve
    from fedkit_clients.edge.transport import Transport

__all__ = [
    "EdgeClient",
    "Membership",
    "Root",
    "Transport",
    "join",
    "member",
    "of_roster",
    "read_membership",
    "rotate",
    "serve",
]

_HOMES = {
    "enrolment": ("join", "rotate"),
    "membership": ("Membership", "member", "of_roster", "read_membership"),
    "root": ("Root",),
    "runtime": ("EdgeClient",),
    "start": ("serve",),
    "transport": ("Transport",),
}


def __getattr__(name: str) -> object:
    """Loaded when asked for: `python -m fedkit_clients.edge` has something to say before that."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
