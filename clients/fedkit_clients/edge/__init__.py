"""The edge client: a small process that trains what an aggregator asks, over links that break."""

from fedkit_clients.edge.runtime import EdgeClient, serve
from fedkit_clients.edge.transport import Transport

__all__ = ["EdgeClient", "Transport", "serve"]
