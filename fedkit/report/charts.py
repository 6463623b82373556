"""Charts as inline SVG. They stretch to any width: geometry is drawn in a square of 1000 units with
strokes that do not scale, text stands beside it as HTML in the page's own size. The script only adds
what a pointer shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedkit.report.markup import Html, data, el
from fedkit.report.units import Axis, show_number

_DOTS = 40  # with more points than this a line shows no dots


@dataclass(frozen=True)
class Line:
    """A curve. colour: a class of style.css. points: (x, y), x ascending. heads: what the pointer's
    box says of each point. band: (x, low, high)."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    heads: Sequence[str]
    dashed: bool = False
    band: Sequence[tuple[float, float, float]] = ()
    show: Callable[[float], str] = show_number


@dataclass(frozen=True)
class Layer:
    """One colour of a stack of bars: a value per bar."""

    name: str
    colour: str
    values: Sequence[int]


@dataclass(frozen=True)
class Hover:
    """What a pointer shows: heads and texts at x, and where the points lie on y (0 is the top)."""

    name: str
    colour: str
    x: Sequence[float]
    heads: Sequence[str]
    texts: Sequence[str]
    y: Sequence[float | None] = ()


def line_chart(title: str, lines: Sequence[Line], x: Axis, y: Axis, marks: Sequence[float] = ()) -> Html:
    """Curves; `marks` are the x of failed rounds."""
    drawn = [_marks([x.at(value) for value in marks])]
    drawn += [_band(line, x, y) for line in lines if line.band]
    for line in lines:
        drawn += _curve(line, x, y)
    hover = [_hover(line, x, y) for line in lines]
    said = "; ".join(f"{line.name} ends at {line.show(line.points[-1][1])}" for line in lines if line.points)
    keys = [(line.name, line.colour + (" dashed" if line.dashed else "")) for line in lines]
    return figure(title, keys, drawn, hover, x, y, f"{title} against {x.label}: {said}", failed=bool(marks))


def bar_chart(
    title: str, layers: Sequence[Layer], heads: Sequence[str], x: Axis, y: Axis, marks: Sequence[int] = ()
) -> Html:
    """Stacked bars, one per round (bar i spans i to i + 1 on x); `marks` are bars of failed rounds."""
    layers = [layer for layer in layers if any(layer.values)]
    floor = [0.0] * len(heads)
    drawn: list[Html] = []
    for layer in layers:
        top = [low + value for low, value in zip(floor, layer.values, strict=True)]
        drawn.append(_bars(layer.colour, floor, top, x, y))
        floor = top
    drawn.append(_marks([x.at(bar + 0.5) for bar in marks]))
    middle = [_unit(x.at(bar + 0.5)) for bar in range(len(heads))]
    hover = [
        Hover(layer.name, layer.colour, middle, heads, [f"{v:,}" for v in layer.values])
        for layer in reversed(layers)
    ]
    said = ", ".join(f"{sum(layer.values):,} {layer.name}" for layer in layers)
    keys = [(layer.name, layer.colour) for layer in layers]
    return figure(title, keys, drawn, hover, x, y, f"{title}: in all {said}", failed=bool(marks))


def figure(
    title: str,
    keys: Sequence[tuple[str, str]],
    drawn: Sequence[Html],
    hover: Sequence[Hover],
    x: Axis,
    y: Axis,
    description: str,
    failed: bool = False,
    size: str = "",
) -> Html:
    """The frame of a chart: title, legend of (name, colour), grid, geometry, tick texts."""
    keys = [*keys, ("round failed", "failed-mark")] if failed else keys
    legend = [el("span", el("i", class_=colour), name) for name, colour in keys]
    grid = "".join(f"M0 {_down(y.at(value))}H1000" for value, _ in y.ticks)
    picture = el(
        "svg",
        el("path", d=grid, class_="grid"),
        *drawn,
        viewBox="0 0 1000 1000",
        preserveAspectRatio="none",
        role="img",
        aria_label=description,
    )
    across = [el("span", text, class_="xt", style=f"left:{x.at(v) * 100:.2f}%") for v, text in x.ticks]
    upright = [el("span", text, class_="yt", style=f"top:{100 - y.at(v) * 100:.2f}%") for v, text in y.ticks]
    label = el("span", x.label, class_="xl")
    plot = el(
        "div",
        picture,
        *across,
        *upright,
        label,
        data(_packed(hover)),
        class_=f"plot {size}".strip(),
        tabindex="0",
    )
    caption = el("figcaption", el("b", title), el("span", *legend, class_="legend"))
    return el("figure", caption, plot)


def fill(cells: Sequence[tuple[float, float, float, float]], colour: str) -> Html:
    """Boxes (left, low, right, high), each in 0..1 from the lower left, in one path."""
    parts = [
        f"M{_unit(a)} {_down(b)}V{_down(d)}H{_unit(c)}V{_down(b)}z" for a, b, c, d in cells if c > a and d > b
    ]
    return el("path", d="".join(parts), class_=f"fill {colour}")


def _bars(colour: str, floor: Sequence[float], top: Sequence[float], x: Axis, y: Axis) -> Html:
    gap = 0.1 if len(floor) <= 120 else 0.0
    boxes = [
        (x.at(bar + gap), y.at(low), x.at(bar + 1 - gap), y.at(high))
        for bar, (low, high) in enumerate(zip(floor, top, strict=True))
    ]
    return fill(boxes, colour)


def _curve(line: Line, x: Axis, y: Axis) -> list[Html]:
    """The line and, if there are few, its points: strokes without length and with round ends."""
    steps: list[str] = []
    dots: list[str] = []
    pen = "M"
    for at, value in line.points:
        if not math.isfinite(value):
            pen = "M"
            continue
        place = f"{_unit(x.at(at))} {_down(y.at(value))}"
        steps.append(pen + place)
        dots.append(f"M{place}h0")
        pen = "L"
    kind = f"line {line.colour}" + (" dashed" if line.dashed else "")
    shown = [el("path", d="".join(steps), class_=kind)]
    if len(line.points) == 1 or (len(dots) <= _DOTS and not line.dashed):
        shown.append(el("path", d="".join(dots), class_=f"dots {line.colour}"))
    return shown


def _band(line: Line, x: Axis, y: Axis) -> Html:
    upper = [f"{_unit(x.at(at))} {_down(y.at(high))}" for at, _, high in line.band]
    lower = [f"{_unit(x.at(at))} {_down(y.at(low))}" for at, low, _ in reversed(line.band)]
    return el("path", d="M" + "L".join(upper + lower) + "z", class_=f"band {line.colour}")


def _marks(places: Sequence[float]) -> Html:
    return el("path", d="".join(f"M{_unit(place)} 0V1000" for place in places), class_="failed-mark")


def _hover(line: Line, x: Axis, y: Axis) -> Hover:
    down = [_down(y.at(value)) if math.isfinite(value) else None for _, value in line.points]
    texts = [line.show(value) for _, value in line.points]
    return Hover(line.name, line.colour, [_unit(x.at(at)) for at, _ in line.points], line.heads, texts, down)


def _packed(hover: Sequence[Hover]) -> list[dict[str, object]]:
    """Leaves out x and heads where they are those of the first line."""
    packed: list[dict[str, object]] = []
    for line in hover:
        same = bool(packed) and (list(line.x), list(line.heads)) == (list(hover[0].x), list(hover[0].heads))
        block: dict[str, object] = {"n": line.name, "c": line.colour, "t": line.texts}
        if not same:
            block |= {"x": line.x, "h": line.heads}
        if line.y:
            block["y"] = line.y
        packed.append(block)
    return packed


def _unit(share: float) -> float | int:
    """A share as a coordinate with one decimal, written as short as can be; far outside is cut off."""
    value = round(min(max(share, -9.0), 9.0) * 1000, 1)
    return int(value) if value == int(value) else value


def _down(share: float) -> float | int:
    return _unit(1 - share)
