"""Numbers as people read them, and the axes that carry them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_TIME = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))

_HUGE = 1e250  # beyond it a span would leave the range of floats


def show_bytes(count: float) -> str:
    """Bytes in decimal units.

    >>> show_bytes(999), show_bytes(1234), show_bytes(45_600_000)
    ('999 B', '1.23 kB', '45.6 MB')
    """
    size, unit = next(((s, u) for s, u in _BYTES if count >= s * 0.9995), _BYTES[-1])
    return f"{count:.0f} B" if unit == "B" else f"{count / size:.{_decimals(count / size)}f} {unit}"


def show_saving(size: float, plain: float) -> str:
    """A size against the same as plain float32; empty where one of them is 0.

    >>> show_saving(100, 3210), show_saving(110, 100), show_saving(0, 100)
    ('32.1× smaller than float32', '1.10× float32', '')
    """
    if not size or not plain:
        return ""
    return (
        f"{times(plain / size)} smaller than float32" if plain >= size else f"{times(size / plain)} float32"
    )


def times(ratio: float) -> str:
    """A ratio in three digits.

    >>> times(3.508), times(32.1), times(1234.5)
    ('3.51×', '32.1×', '1,234×')
    """
    return f"{ratio:,.{_decimals(ratio)}f}×" if ratio < 9.995 else f"{ratio:,.{int(ratio < 99.95)}f}×"


def show_seconds(seconds: float) -> str:
    """A duration, at most two units.

    >>> show_seconds(0.042), show_seconds(42.04), show_seconds(200), show_seconds(7500)
    ('42 ms', '42 s', '3 min 20 s', '2 h 5 min')
    """
    if seconds < 0.0005:
        return "0 s"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f}".rstrip("0").rstrip(".") + " s"
    whole = round(seconds)
    for (size, unit), (part, small) in itertools.pairwise(_TIME):
        if whole >= size:
            rest = int(whole % size // part)
            return f"{int(whole // size)} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def show_number(value: float) -> str:
    """Four significant digits; whole numbers with thousands apart.

    >>> show_number(0.57), show_number(12345678), show_number(1234.56), show_number(1.5e-7)
    ('0.5700', '12,345,678', '1,234.6', '1.500e-07')
    """
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if 1000 <= abs(value) < 1e7 else f"{value:#.4g}"


def _decimals(value: float) -> int:
    return 2 if value < 9.995 else 1 if value < 99.95 else 0


@dataclass(frozen=True)
class Axis:
    """An axis from low to high, linear or logarithmic. ticks: (value, text)."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def at(self, value: float) -> float:
        """Where the value lies, 0 (low) to 1 (high); on a logarithmic axis it is positive."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def number_axis(label: str, values: Iterable[float]) -> Axis:
    """An axis around the finite values; it ends on ticks."""
    low, high = _range(values)
    step = _step(high - low)
    places = max(0, -math.floor(math.log10(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    form = f".{places}f" if abs(last * step) < 1e5 and places < 6 else ".3g"
    ticks = tuple((i * step, format(i * step, form)) for i in range(first, last + 1))
    return Axis(label, first * step, last * step, ticks)


def count_axis(label: str, high: float, ends_on_tick: bool = True) -> Axis:
    """An axis of whole numbers from 0; it ends at `high` itself unless ends_on_tick."""
    step = max(1.0, _step(max(high, 1.0)))
    end = math.ceil(high / step - 1e-9) * step if ends_on_tick else high
    return _from_zero(label, end, step, lambda v: f"{v:,.0f}", fallback=step)


def bytes_axis(label: str, high: float) -> Axis:
    """Bytes from 0, ticks in one unit, which the label names."""
    size, unit = next(((s, u) for s, u in _BYTES if high >= s), _BYTES[-1])
    return _in_unit(label, high, size, unit)


def bytes_log_axis(label: str, low: float, high: float) -> Axis:
    """Bytes on a logarithmic scale, a little wider than from low (above 0) to high."""
    low, high = low / 1.1, high * 1.1
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = -(-len(powers) // 8)
    ticks = [10.0**n for n in powers[::every] if low <= 10.0**n <= high]
    if len(ticks) < 3:
        fine = (m * 10.0**n for n in powers for m in (1.0, 2.0, 5.0))
        ticks = [tick for tick in fine if low <= tick <= high]
    if len(ticks) < 2:
        ticks = [low, high]
    return Axis(f"{label} (logarithmic)", low, high, tuple((at, _short_bytes(at)) for at in ticks), log=True)


def _short_bytes(count: float) -> str:
    size, unit = next(((s, u) for s, u in _BYTES if count >= s), _BYTES[-1])
    return f"{count / size:.3g} {unit}"


def seconds_axis(label: str, high: float) -> Axis:
    """Seconds from 0, ticks in one unit, which the label names."""
    size, unit = next(((s, u) for s, u in _TIME if high >= 2 * s), _TIME[-1])
    return _in_unit(label, high, size, unit)


def _in_unit(label: str, high: float, size: float, unit: str) -> Axis:
    step = _step(max(high / size, 1e-9)) * size
    return _from_zero(f"{label} ({unit})", high, step, lambda v: f"{v / size:g}", fallback=size)


def _from_zero(label: str, high: float, step: float, show: Callable[[float], str], fallback: float) -> Axis:
    if step > high:
        return Axis(label, 0.0, fallback, ((0.0, "0"), (fallback, show(fallback))))
    count = math.floor(high / step + 1e-9)
    return Axis(label, 0.0, high, tuple((i * step, show(i * step)) for i in range(count + 1)))


def _range(values: Iterable[float]) -> tuple[float, float]:
    finite = [v for v in values if abs(v) < _HUGE]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    if high - low > max(1e-9 * max(abs(low), abs(high)), 1 / _HUGE):
        return low, high
    pad = 0.05 * abs(low) or 0.5
    return low - pad, high + pad


def _step(span: float, want: int = 5) -> float:
    """The largest of 1, 2, 5 times a power of ten that gives about `want` ticks."""
    raw = span / want
    power = 10.0 ** math.floor(math.log10(raw))
    return power * next(m for m in (1.0, 2.0, 5.0, 10.0) if m * power >= raw * 0.999)
