"""uvicorn on a thread of its own: one address, one application."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp

from fedkit.aggregator.connections import AT_ONCE, HEAD_LIMIT, IDLE_SECONDS, Door, Places, careful, room
from fedkit.aggregator.tls import LOOK, certificate, load
from fedkit.errors import ConfigError
from fedkit.keyfile import NAME

_CLOSING = 5


class Listener:
    """Serves an application on its own thread while the context is open; `url` is where.

    tls: the folder of the key and its certificate; None: plain HTTP. drain: called before the last answers
    are waited for. ConfigError if the address cannot be taken.
    """

    def __init__(
        self,
        asgi: ASGIApp,
        host: str,
        port: int,
        tls: Path | None = None,
        *,
        drain: Callable[[], None] = lambda: None,
        places: Places | None = None,
    ) -> None:
        self._drain, self._tls = drain, tls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # the protocol by name: asyncio switches Nagle's delay of 40 ms off for no other socket
        self._socket = Door(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.places = places = places or Places(room())
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
        except (OSError, OverflowError) as error:
            self._socket.close()
            raise ConfigError(f"address {host}:{port} cannot be served: {error}; give another") from error
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        self.url = f"{'http' if tls is None else 'https'}://{shown}:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(self._config(asgi, places))
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="fedkit-aggregator", daemon=True
        )

    def __enter__(self) -> Listener:
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise ConfigError(f"{self.url} cannot be served: the server ended at once")
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._drain()
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def _config(self, asgi: ASGIApp, places: Places) -> uvicorn.Config:
        config = uvicorn.Config(
            asgi,
            http=careful(places),
            loop="asyncio",  # others would not come in by the Door
            ws="none",
            h11_max_incomplete_event_size=HEAD_LIMIT,
            backlog=AT_ONCE,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=_CLOSING,
            ssl_certfile=certificate(self._tls) if self._tls is not None else None,
            ssl_keyfile=self._tls / NAME if self._tls is not None else None,
            callback_notify=self._renew,
            timeout_notify=LOOK,
            proxy_headers=False,  # who calls is who calls: a header may say anything
            log_config=None,
            access_log=False,
            server_header=False,
        )
        config.load()
        self._context = config.ssl
        if self._context is not None:
            self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        return config

    async def _renew(self) -> None:
        """A certificate that is half over is replaced while connections go on."""
        if self._tls is not None and self._context is not None:
            await run_in_threadpool(load, self._context, self._tls)
