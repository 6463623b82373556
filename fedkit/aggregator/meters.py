"""What happened since the process began, in numbers: for /metrics and `fedkit status`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from fedkit.messages import ClientId

_ROUTES = frozenset(("blobs", "enrol", "job", "tasks", "uploads"))
_METHODS = frozenset(("GET", "HEAD", "PATCH", "POST", "PUT"))
_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60)
_SMALLEST = 1 << 14
"""Bytes of a body from which on the time that it took says something of the link."""
_NEWEST = 0.3
"""Weight of the newest measurement."""


class Meters:
    """Counters of one aggregator. All methods may be called from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "fedkit_requests",
            "Requests of devices by resource, method and status.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "fedkit_request_seconds",
            "Time to answer; polls wait.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._refusals = Counter(
            "fedkit_refusals",
            "Requests that were refused, by the word told.",
            ("word",),
            registry=self.registry,
        )
        self._uplinks: dict[ClientId, float] = {}

    def request(self, method: str, path: str, status: int, seconds: float) -> None:
        """A request was answered. status 0: it was not."""
        route = path.split("/")[2] if path.startswith("/v1/") else ""
        route = route if route in _ROUTES else "other"
        self._requests.labels(route, method if method in _METHODS else "other", str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def refused(self, word: str) -> None:
        """A request was refused."""
        self._refusals.labels(word).inc()

    def came(self, client: ClientId, size: int, seconds: float) -> None:
        """A body of this client took so long to come."""
        if size >= _SMALLEST:
            rate = size / max(seconds, 1e-4)
            before = self._uplinks.get(client, rate)
            self._uplinks[client] = before + _NEWEST * (rate - before)

    def uplink(self, client: ClientId) -> float | None:
        """Bytes a second that come from this client; None while none were measured."""
        return self._uplinks.get(client)
