from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.report.units import (
    Axis,
    bytes_axis,
    bytes_log_axis,
    count_axis,
    number_axis,
    seconds_axis,
    show_bytes,
    show_number,
    show_seconds,
)

anything = st.floats(allow_nan=True, allow_infinity=True)
size = st.floats(0, 1e15)


def _is_sound(axis: Axis) -> None:
    values = [value for value, _ in axis.ticks]
    assert axis.low < axis.high
    assert values == sorted(set(values))
    assert all(-1e-6 <= axis.at(value) <= 1 + 1e-6 for value in values)
    assert 2 <= len(values) <= 12


@given(st.lists(anything, max_size=20))
def test_a_number_axis_is_sound_whatever_the_values(values: list[float]) -> None:
    axis = number_axis("loss", values)
    _is_sound(axis)
    for value in values:
        if abs(value) < 1e250:
            assert -1e-6 <= axis.at(value) <= 1 + 1e-6


@given(size)
def test_axes_from_zero_are_sound(high: float) -> None:
    for axis in (count_axis("n", high), bytes_axis("bytes", high), seconds_axis("time", high)):
        assert axis.low == 0
        assert axis.high >= high
        _is_sound(axis)


def test_count_axis_has_whole_ticks_only() -> None:
    assert [text for _, text in count_axis("rounds", 3).ticks] == ["0", "1", "2", "3"]
    assert count_axis("rounds", 12, ends_on_tick=False).high == 12


def test_axis_names_its_unit() -> None:
    assert bytes_axis("bytes", 2.5e6).label == "bytes (MB)"
    assert [text for _, text in bytes_axis("bytes", 2.5e6).ticks] == ["0", "0.5", "1", "1.5", "2", "2.5"]
    assert seconds_axis("time", 600).label == "time (min)"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.96, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (90000, "1 d 1 h"), (0.9996, "1 s")],
)
def test_show_seconds(seconds: float, text: str) -> None:
    assert show_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999.9, "1.00 kB"), (1e6, "1.00 MB"), (2.5e13, "25.0 TB")]
)
def test_show_bytes(count: float, text: str) -> None:
    assert show_bytes(count) == text


@given(anything)
def test_show_number_is_short_and_keeps_four_digits(value: float) -> None:
    text = show_number(value)
    assert len(text) <= 20
    if 0 < abs(value) < 1e308:
        assert float(text.replace(",", "")) == pytest.approx(value, rel=1e-3)


@given(st.floats(1, 1e15), st.floats(1, 1e15))
def test_a_logarithmic_axis_holds_its_values_and_equal_ratios_are_equally_far(
    one: float, other: float
) -> None:
    low, high = sorted((one, other))
    axis = bytes_log_axis("bytes", low, high)
    _is_sound(axis)
    assert -1e-6 <= axis.at(low) <= axis.at(high) <= 1 + 1e-6
    assert axis.at(2 * low) - axis.at(low) == pytest.approx(axis.at(2 * high) - axis.at(high))


def test_ticks_of_a_logarithmic_axis_are_round() -> None:
    def ticks(low: float, high: float) -> list[str]:
        return [text for _, text in bytes_log_axis("b", low, high).ticks]

    assert ticks(2e5, 3e8) == ["1 MB", "10 MB", "100 MB"]
    assert ticks(1500, 30_000) == ["2 kB", "5 kB", "10 kB", "20 kB"]
    assert ticks(300, 310) == ["273 B", "341 B"]  # no round number between: the ends
