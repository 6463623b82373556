"""Logs as JSON lines, and the same line not a thousand times: whoever is refused must not fill the disk."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging.handlers import WatchedFileHandler
from pathlib import Path

from fedkit.errors import ConfigError
from fedkit.history import finite

TOLD = ("fedkit", "uvicorn", "asyncio")
"""Loggers whose records become lines."""
SPARED = ("fedkit.aggregator", "uvicorn.error", "asyncio")
"""Loggers whose warnings anybody on the network can cause."""
BURST, WINDOW = 20, 60.0
"""Warnings of one kind that are let through in so many seconds."""
_KINDS = 1000
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One object a line: `at` (UTC), `level`, `logger`, `message`, and what the record has besides."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        told: dict[str, object] = {
            "at": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {name: value for name, value in vars(record).items() if name not in _PLAIN}
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(finite(told), default=str)


class Sparing(logging.Filter):
    """Lets through BURST warnings of a kind in each WINDOW; the next one after it says how many were not.

    A kind is a message before its arguments are filled in, and the word of a refusal.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to let it through."""
        if record.levelno < logging.WARNING:
            return True
        kind = (str(record.msg), str(getattr(record, "word", "")))
        now = self._clock()
        began, count = self._seen.get(kind, (now, 0))
        if now >= began + WINDOW:
            if count > BURST:
                record.msg = f"{record.msg} ({count - BURST} more like this were not logged)"
            began, count = now, 0
        if len(self._seen) >= _KINDS:
            self._seen.clear()
        self._seen[kind] = (began, count + 1)
        return count < BURST


@contextmanager
def logged(path: Path | None) -> Iterator[None]:
    """While a run is served: sparing logs, and as JSON lines in `path` if it is given ("-": stderr).

    A file that was moved away, as logrotate does, is begun anew. ConfigError if it cannot be written.
    """
    sparing, handler = Sparing(), _handler(path)
    told = [logging.getLogger(name) for name in TOLD]
    levels = [logger.level for logger in told]
    for name in SPARED:
        logging.getLogger(name).addFilter(sparing)
    for logger in told:
        logger.addHandler(handler)
        if path is not None:
            logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for name in SPARED:
            logging.getLogger(name).removeFilter(sparing)
        for logger, level in zip(told, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
        handler.close()


def _handler(path: Path | None) -> logging.Handler:
    if path is None:
        return logging.NullHandler()
    try:
        handler = logging.StreamHandler(sys.stderr) if str(path) == "-" else WatchedFileHandler(path)
    except OSError as error:
        raise ConfigError(f"--log {path} cannot be written: {error.strerror}") from error
    handler.setFormatter(JsonLines())
    return handler
