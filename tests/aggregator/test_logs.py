"""JSON lines, and the same warning not a thousand times."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from fedkit.aggregator.logs import BURST, WINDOW, Sparing, logged
from fedkit.errors import ConfigError

log = logging.getLogger("fedkit.aggregator")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_become_lines_with_what_they_carry(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with logged(path):
        log.info("round %d: done", 3, extra={"round": 3, "metrics": {"loss": float("nan")}})
        try:
            raise ValueError("a\nb")
        except ValueError:
            log.exception("it broke")
    log.warning("not any more")
    first, second = lines(path)
    assert {name: first[name] for name in ("level", "logger", "message", "round", "metrics")} == {
        **{"level": "info", "logger": "fedkit.aggregator", "message": "round 3: done"},
        **{"round": 3, "metrics": {"loss": None}},
    }
    assert first["at"].endswith("Z")
    assert "ValueError: a\nb" in second["exception"]


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with logged(path):
        log.warning("one")
        path.rename(tmp_path / "log.1")
        log.warning("two")
    assert [row["message"] for row in lines(path)] == ["two"]


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--log"), logged(tmp_path / "no" / "log"):
        pass


def record(message: str, word: str = "", level: int = logging.WARNING) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": message, "word": word, "levelno": level})


def test_a_flood_is_told_of_once() -> None:
    now = [0.0]
    sparing = Sparing(lambda: now[0])
    assert sum(sparing.filter(record("refused", "replay")) for _ in range(1000)) == BURST
    assert sparing.filter(record("refused", "signature")), "another kind"
    assert sparing.filter(record("refused", "replay", logging.INFO)), "nobody outside causes these"
    now[0] = WINDOW
    after = record("refused", "replay")
    assert sparing.filter(after)
    assert after.msg == f"refused ({1000 - BURST} more like this were not logged)"


def test_kinds_are_bounded() -> None:
    sparing = Sparing()
    for number in range(5000):
        sparing.filter(record(str(number)))
    assert len(sparing._seen) <= 1000
