"""The bytes of a month and the speed of an uplink."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit_clients.edge import meter as module
from fedkit_clients.edge.answers import Unreachable
from fedkit_clients.edge.meter import DAY, KEEP, SMALL, Meter, wire_bytes

MARCH = 1_772_323_200.0  # 2026-03-01 00:00 UTC
APRIL = 1_775_001_600.0


def test_a_month_has_room_until_it_is_used_up(tmp_path: Path) -> None:
    now = MARCH + 86400
    meter = Meter(tmp_path / "traffic", 100_000, lambda: now)
    meter.demand(90_000)
    meter.count(90_000)
    with pytest.raises(Unreachable, match="of the 100000 bytes of this month") as caught:
        meter.demand(10_000)
    assert caught.value.after == APRIL - now
    now = APRIL
    meter.demand(90_000)
    assert meter.used == 0


def test_what_was_used_outlives_the_process(tmp_path: Path) -> None:
    meter = Meter(tmp_path / "traffic", 0, lambda: MARCH)
    meter.count(KEEP)  # enough to be written without being told
    assert Meter(tmp_path / "traffic", 0, lambda: MARCH).used == meter.used == wire_bytes(KEEP)
    meter.count(10)
    meter.keep()
    assert Meter(tmp_path / "traffic", 0, lambda: MARCH).used == meter.used
    later = Meter(tmp_path / "traffic", 5, lambda: APRIL)
    later.count(0)
    assert later.used == 0


@pytest.mark.parametrize(
    "damage", [b"", b"[]", b'{"bytes": -1, "month": "2026-03"}', b'{"tasks": ["x"]}', b"\xff"]
)
def test_a_count_that_is_damaged_begins_anew(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "traffic").write_bytes(damage)
    assert Meter(tmp_path / "traffic", 0, lambda: MARCH).used == 0


def test_a_full_disk_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_file", full)
    meter = Meter(tmp_path / "traffic", 0, lambda: MARCH)
    meter.count(2 * KEEP)
    meter.keep()
    assert meter.used > 0


def test_a_clock_that_starts_in_another_month_does_not_give_the_month_again(tmp_path: Path) -> None:
    times = [MARCH]

    def made() -> Meter:
        return Meter(tmp_path / "traffic", 100_000, lambda: times[-1])

    meter = made()
    meter.count(80_000)
    used = meter.used
    for _ in range(3):
        times.append(5.0)  # a device without a clock of its own is started
        meter = made()
        meter.count(1000)
        times.append(MARCH + 60)
        meter.count(0)
        assert meter.used == used
        meter.keep()


def test_a_day_has_room_until_so_many_tasks_began_in_24_hours(tmp_path: Path) -> None:
    now = MARCH
    meter = Meter(tmp_path / "traffic", 0, lambda: now, daily=2)
    meter.begin("a")
    now += 3600
    assert meter.full() == 0
    meter.begin("b")
    for other in (meter, Meter(tmp_path / "traffic", 0, lambda: now, daily=2)):
        assert other.full("c") == DAY - 3600, "until the first of them is a day old, in another process too"
        assert other.full("a") == other.full("b") == 0, "what was begun goes on"
        other.begin("a")
        assert other.full("c") == DAY - 3600, "and is one"
    meter.over("a")
    for other in (meter, Meter(tmp_path / "traffic", 0, lambda: now, daily=2)):
        assert other.full("a") == DAY - 3600, "what is over and comes again is another one"
    now = MARCH + DAY
    assert meter.full() == 0
    meter.begin("c")
    assert meter.full() == 3600, "the day slides"
    assert Meter(tmp_path / "traffic", 0, lambda: now, daily=5).full() == 0
    now -= 400 * DAY
    assert meter.full() == 0, "a clock that was wrong does not bind for ever"


def test_without_a_ceiling_tasks_are_not_counted(tmp_path: Path) -> None:
    meter = Meter(tmp_path / "traffic", 0, lambda: MARCH)
    for number in range(100):
        meter.begin(str(number))
    assert meter.full() == 0
    assert not (tmp_path / "traffic").exists()


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_more_bytes_cost_more_and_parts_cost_no_less_than_the_whole(one: int, two: int) -> None:
    assert wire_bytes(one) >= one
    assert wire_bytes(one) + wire_bytes(two) >= wire_bytes(one + two)


def test_room_is_a_part_of_what_the_link_bore() -> None:
    meter = Meter()
    assert meter.room(100.0) == 0, "nothing is known"
    meter.uploaded(SMALL - 1, 0.001)
    assert meter.room(100.0) == 0, "that measured the delay alone"
    meter.uploaded(1_000_000, 10.0)
    assert meter.room(10.0) == 500_000
    meter.uploaded(1_000_000, 100.0)
    assert 50_000 < meter.room(10.0) < 500_000
    assert meter.room(-5.0) == 1, "too late for anything: the shortest"
    assert (meter.room(-math.inf), meter.room(1e308)) == (1, 2**53), "whatever an aggregator says"
