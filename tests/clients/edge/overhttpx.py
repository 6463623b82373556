"""A way to an aggregator that is played by handlers of httpx."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import cast

import httpx

from fedkit_clients.edge.answers import Unreachable

Handler = Callable[[httpx.Request], httpx.Response]


class OverHttpx:
    """Requests go to `handle`, which may raise the errors of httpx."""

    def __init__(self, handle: Handler) -> None:
        self.handle = handle

    def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, patience: float = 0.0
    ) -> Played:
        url = httpx.URL("http://aggregator").copy_with(raw_path=target.encode("ascii"))
        try:
            return Played(self.handle(httpx.Request(method, url, headers=dict(headers), content=body)))
        except httpx.TransportError as error:
            raise Unreachable(f"{method} {target}: {error}") from error

    def close(self) -> None:
        """There is nothing to close."""


class Played:
    """An answer of httpx as one of the link."""

    def __init__(self, answer: httpx.Response) -> None:
        self.status, self._answer = answer.status_code, answer
        self.headers: Mapping[str, str] = dict(answer.headers)

    def pieces(self) -> Iterator[bytes]:
        try:
            yield from cast("httpx.SyncByteStream", self._answer.stream)
        except httpx.TransportError as error:
            raise Unreachable(f"an answer is cut off: {error}") from error

    def close(self) -> None:
        self._answer.close()
