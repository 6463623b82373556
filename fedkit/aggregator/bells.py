"""What wakes a poll that waits: something is new for its client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from fedkit.messages import ClientId


class Bells:
    """Wakes polls that wait in the event loop, from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[ClientId, set[asyncio.Event]] = {}

    @asynccontextmanager
    async def running(self, _app: object) -> AsyncIterator[None]:
        """While the event loop of the application runs."""
        self._loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            self._loop = None

    def ring(self, clients: Collection[ClientId] | None) -> None:
        """Wake the polls of these clients; None: of all."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._ring, clients)

    @contextmanager
    def hung(self, client: ClientId) -> Iterator[asyncio.Event]:
        """A bell that rings for whatever is new for this client."""
        bell = asyncio.Event()
        self._waiting.setdefault(client, set()).add(bell)
        try:
            yield bell
        finally:
            self._waiting[client].discard(bell)
            if not self._waiting[client]:
                del self._waiting[client]

    def _ring(self, clients: Collection[ClientId] | None) -> None:
        for client in self._waiting if clients is None else clients:
            for bell in self._waiting.get(client, ()):
                bell.set()


async def heard(bell: asyncio.Event, seconds: float) -> None:
    """Wait for a bell, but not for long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await bell.wait()
