"""How the labels lie among the clients: one heat map from 2 to thousands of clients."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedkit.report.charts import Hover, figure, fill
from fedkit.report.data import Labels
from fedkit.report.markup import Html, join, section
from fedkit.report.units import Axis, count_axis

_COLUMNS = 600  # more clients than this share columns
_ROWS = 100  # more classes than this: the rarest share the last row
_LEVELS = (0.0, 0.02, 0.08, 0.16, 0.28, 0.42, 0.6, 0.8)  # a cell above the i-th has colour h(i+1)


def labels_section(labels: Labels) -> Html:
    """Sizes of the clients and the share of each class at each client."""
    classes, counts = _fold(labels)
    order = _order(counts)
    columns = np.array_split(order, min(_COLUMNS, len(order)))
    merged = np.stack([counts[rows].sum(axis=0) for rows in columns])
    names = [_name(labels, rows) for rows in columns]
    texts = [_top(classes, row) for row in merged]
    per = -(-len(order) // len(columns))
    sizes = np.array([counts[rows].sum() / len(rows) for rows in columns])
    charts = [_size_chart(sizes, names), _heat_map(classes, merged, names, texts, per)]
    return section("Labels of the clients", join(charts), note=_say(labels.counts))


def _say(counts: NDArray[np.int64]) -> str:
    sizes = counts.sum(axis=1)
    shares = counts[sizes > 0] / sizes[sizes > 0][:, None]
    said = (
        f"{len(counts):,} clients hold {sizes.sum():,} examples of {counts.shape[1]} classes: "
        f"{sizes.min():,} to {sizes.max():,} each, {np.median(sizes):,.0f} in the median. "
    )
    if not len(shares):
        return said
    whole = counts.sum(axis=0) / sizes.sum()
    distance = 0.5 * np.abs(shares - whole).sum(axis=1).mean()
    return said + (
        f"A client's mix of labels differs from the whole by {distance:.2f} on average (total variation: "
        "0 where all clients look alike, near 1 where no two share a label)."
    )


def _size_chart(sizes: NDArray[np.float64], names: Sequence[str]) -> Html:
    x, y = Axis("", 0.0, len(sizes), ()), count_axis("examples", float(sizes.max()))
    y = Axis(y.label, y.low, y.high, y.ticks[:: max(1, len(y.ticks) // 2)])
    gap = 0.08 if len(sizes) <= 120 else 0.0
    boxes = [(x.at(i + gap), 0.0, x.at(i + 1 - gap), y.at(size)) for i, size in enumerate(sizes)]
    hover = _hover(names, [f"{size:,.0f} examples" for size in sizes])
    about = f"Examples per client: {sizes.min():.0f} to {sizes.max():.0f}"
    return figure("Examples per client", [], [fill(boxes, "c0")], [hover], x, y, about, size="low indent")


def _heat_map(
    classes: Sequence[str],
    counts: NDArray[np.int64],
    names: Sequence[str],
    texts: Sequence[str],
    per: int,
) -> Html:
    wide, high = counts.shape
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    level = np.searchsorted(_LEVELS, share, side="left")
    boxes: dict[int, list[tuple[float, float, float, float]]] = {i: [] for i in range(1, len(_LEVELS) + 1)}
    for row in range(high):
        for start, stop in _runs(level[:, row]):
            if level[start, row]:
                box = (start / wide, 1 - (row + 1) / high, stop / wide, 1 - row / high)
                boxes[int(level[start, row])].append(box)
    drawn = [fill(found, f"h{key}") for key, found in boxes.items() if found]
    every = -(-high // 20)
    y = Axis("class", 0.0, high, tuple((high - i - 0.5, classes[i]) for i in range(high - 1, -1, -every)))
    few = wide <= 8 and per == 1
    said = "clients" if per == 1 else f"clients, up to {per} in a column"
    x = Axis(said, 0.0, wide, tuple((i + 0.5, names[i][:14]) for i in range(wide)) if few else ())
    keys = [("few", "h2"), ("half", "h6"), ("nearly all", "h8")]
    title = "Share of each class at each client"
    about = f"{title}, clients ordered by their most frequent class"
    return figure(title, keys, drawn, [_hover(names, texts)], x, y, about, size="tall")


def _runs(levels: NDArray[np.intp]) -> list[tuple[int, int]]:
    """Stretches of equal level, as (start, stop)."""
    edges = [0, *(np.flatnonzero(np.diff(levels)) + 1).tolist(), len(levels)]
    return list(itertools.pairwise(edges))


def _fold(labels: Labels) -> tuple[list[str], NDArray[np.int64]]:
    """At most _ROWS classes: the rarest are summed as `others`."""
    if len(labels.classes) <= _ROWS:
        return list(labels.classes), labels.counts
    common = np.argsort(-labels.counts.sum(axis=0), kind="stable")
    kept, rare = np.sort(common[: _ROWS - 1]), common[_ROWS - 1 :]
    counts = np.column_stack([labels.counts[:, kept], labels.counts[:, rare].sum(axis=1)])
    return [*(labels.classes[i] for i in kept), f"{len(rare)} others"], counts


def _order(counts: NDArray[np.int64]) -> NDArray[np.intp]:
    """By most frequent class, then by how much it prevails."""
    share = counts.max(axis=1) / np.maximum(counts.sum(axis=1), 1)
    return np.lexsort((-share, counts.argmax(axis=1)))


def _name(labels: Labels, rows: NDArray[np.intp]) -> str:
    first = labels.clients[rows[0]]
    return first if len(rows) == 1 else f"{first} and {len(rows) - 1} more"


def _top(classes: Sequence[str], row: NDArray[np.int64]) -> str:
    best = [int(i) for i in np.argsort(-row, kind="stable")[:4] if row[i]]
    return f"{row.sum():,} examples: " + ", ".join(f"{classes[i]} × {row[i]:,}" for i in best)


def _hover(names: Sequence[str], texts: Sequence[str]) -> Hover:
    middle = [round(1000 * (i + 0.5) / len(names), 1) for i in range(len(names))]
    return Hover("", "", middle, names, texts)
