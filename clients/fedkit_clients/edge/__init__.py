"""The edge client: a small process that trains what an aggregator asks, over links that break."""

from fedkit_clients.edge.membership import Membership, member, of_roster, read_membership
from fedkit_clients.edge.runtime import EdgeClient, serve
from fedkit_clients.edge.transport import Transport

__all__ = ["EdgeClient", "Membership", "Transport", "member", "of_roster", "read_membership", "serve"]
