"""What is asked of a device: bytes of a month and tasks of a day; how fast its uploads go."""

from __future__ import annotations

import calendar
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

from fedkit import fields
from fedkit.errors import WireError
from fedkit_clients.edge.answers import Unreachable
from fedkit_clients.edge.files import write_file

log = logging.getLogger("fedkit.edge")
SEGMENT, HEADS = 1400, 104
"""Bytes of data in a packet, and of the heads of such a packet and of its acknowledgement."""
RECORD = 22
"""Bytes that TLS adds to a record."""
HANDSHAKE = 1500
"""About the bytes with which a connection over TLS begins, both ways; 1,458 were measured."""
KEEP, EXACT = 1 << 26, 1000
"""Bytes after which the count is written down; where a month's are counted out, that part of them if it is
less. A power cut forgets no more.
"""
SHARE = 0.5
"""Of the room until a deadline, what an update may take: the link may be worse than it was."""
DAY = 86_400.0
_LOOK = 1.0
"""Seconds for which a month is not looked up again."""
FRESH, SMALL = 0.5, 1 << 14
"""Weight of the newest measurement of the uplink; uploads of fewer bytes measure the delay alone."""


class Meter:
    """Counts and measures for one device.

    file: where the counts are kept; None: in memory. monthly: most bytes of a month, 0: any. clock: unix
    time; months are those of UTC. daily: most tasks of any 24 hours, 0: any, and they are not counted.
    """

    def __init__(
        self,
        file: Path | None = None,
        monthly: int = 0,
        clock: Callable[[], float] = time.time,
        daily: int = 0,
    ) -> None:
        self._file, self._monthly, self._clock, self.daily = file, monthly, clock, daily
        # the month before: a clock that starts at 1970 comes back to it; tasks by name, and when they began
        self._month, self.used, self._before, self._begun = _read(file)
        self._written, self._until = self.used, 0.0
        self._keep = min(KEEP, monthly // EXACT) if monthly else KEEP
        self.uplink = 0.0
        """Bytes per second, 0 while unknown."""

    def demand(self, size: int) -> None:
        """Unreachable, until next month, unless the month has room for so many bytes more."""
        self._turn()
        if self._monthly and self.used + wire_bytes(size) > self._monthly:
            raise Unreachable(
                f"{self.used} of the {self._monthly} bytes of this month (monthly_bytes) are used, and "
                f"{wire_bytes(size)} are needed",
                _left(self._clock()),
            )

    def count(self, size: int) -> None:
        """So many bytes went over the link, in either direction, in one request or answer."""
        self._turn()
        self.used += wire_bytes(size)
        if self.used - self._written >= self._keep:
            self.keep()

    def full(self, task: str = "") -> float:
        """Seconds until the day has room for this task, or for another; 0: it has, or the task has begun."""
        now = self._clock()
        # a day that is not over, or a clock was set right meanwhile
        self._begun = {name: at for name, at in self._begun.items() if abs(now - at) < DAY}
        if not self.daily or task in self._begun or len(self._begun) < self.daily:
            return 0.0
        return sorted(self._begun.values())[-self.daily] + DAY - now

    def begin(self, task: str) -> None:
        """A task begins, or goes on: that is written down before, or a device that is killed would begin any
        number.
        """
        if self.daily and task not in self._begun:
            self._begun[task] = self._clock()
            self.keep()

    def over(self, task: str) -> None:
        """A task has its verdict: if it came once more, that would be another one of the day."""
        if task in self._begun:
            at = self._begun.pop(task)
            self._begun[f"{task} {at}"] = at
            self.keep()

    def connected(self) -> None:
        """A connection over TLS was opened."""
        self.count(HANDSHAKE)

    def uploaded(self, size: int, seconds: float) -> None:
        """So many bytes of an upload arrived within so many seconds."""
        if size >= SMALL and seconds > 0:
            rate = size / seconds
            self.uplink = rate if not self.uplink else FRESH * rate + (1 - FRESH) * self.uplink

    def room(self, seconds: float) -> int:
        """Bytes that an update may have to arrive within so many seconds; 0 if nothing is known."""
        if not self.uplink:
            return 0
        return int(max(1.0, min(SHARE * self.uplink * seconds, fields.INTEGER_LIMIT)))

    def keep(self) -> None:
        """Write the count down; a disk that is full is no reason to stop."""
        self._written = self.used
        if self._file is None:
            return
        try:
            told = {"before": self._before, "bytes": self.used, "month": self._month}
            tasks = self._begun if self.daily else {}
            write_file(self._file, json.dumps({**told, "tasks": tasks}).encode())
        except OSError as error:
            log.warning("%s cannot be written: %s", self._file, error)

    def _turn(self) -> None:
        now = self._clock()
        if self._until - _LOOK <= now < self._until:
            return
        month, self._until = time.strftime("%Y-%m", time.gmtime(now)), now + min(_LOOK, _left(now))
        if month != self._month:
            left, self.used = {self._month: self.used}, self._before.get(month, 0)
            self._month, self._before, self._written = month, left, self.used


def wire_bytes(size: int) -> int:
    """Bytes on the link for so many of a request or an answer, with TLS, TCP and IP around them.

    >>> wire_bytes(600), wire_bytes(1_000_000)
    (726, 1075724)
    """
    records, packets = -(-size // (1 << 14)), -(-size // SEGMENT)
    return size + RECORD * records + HEADS * packets


def _left(at: float) -> float:
    """Seconds of the month that are left."""
    now = time.gmtime(at)
    year, month = (now.tm_year, now.tm_mon + 1) if now.tm_mon < 12 else (now.tm_year + 1, 1)
    return float(calendar.timegm((year, month, 1, 0, 0, 0)) - at)


def _read(file: Path | None) -> tuple[str, int, dict[str, int], dict[str, float]]:
    """Month and bytes, those of the one before, and when tasks began; of no month if there is no such file,
    or it is damaged.
    """
    try:
        told = fields.mapping(fields.parse(file.read_bytes(), "traffic"), "traffic") if file else {}
        tasks = fields.mapping(told.get("tasks", {}), "tasks")
        begun = {name: fields.number(at, "tasks") for name, at in tasks.items()}
        month, used = told.get("month", ""), told.get("bytes", 0)
        others = fields.mapping(told.get("before", {}), "before")
        before = {name: fields.integer(size, "before") for name, size in others.items()}
        return fields.text(month, "month"), fields.integer(used, "bytes"), before, begun
    except FileNotFoundError:
        return "", 0, {}, {}
    except (OSError, WireError) as error:
        log.warning("%s cannot be read, the counts begin at 0: %s", file, error)
        return "", 0, {}, {}
