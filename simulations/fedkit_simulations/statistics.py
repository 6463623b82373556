"""How unlike clients are: figures over a table of label counts, and a picture of it.

A table has one row per client and one column per label, in examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import ConfigError
from fedkit.messages import ClientId

Table = NDArray[np.int64]

MOST_BARS = 500
_WIDTH, _HEIGHT, _LEFT, _TOP, _KEY = 720.0, 220.0, 56.0, 14.0, 34.0
_COLOURS = (
    *("#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948"),
    *("#b07aa1", "#ff9da7", "#9c755f", "#2f4b7c", "#d37295", "#b6992d"),
)
_REST = "#a0a0a0"


def label_counts(labels: NDArray[Any], parts: Mapping[ClientId, NDArray[np.int64]]) -> Table:
    """(clients, labels) counts, rows in the order of `parts`, columns in that of sorted labels."""
    kinds, code = np.unique(labels, return_inverse=True)
    return np.array([np.bincount(code[part], minlength=len(kinds)) for part in parts.values()], np.int64)


def shares(counts: Table) -> NDArray[np.float64]:
    """Each client's label distribution; zeros for a client without examples."""
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def entropy(counts: Table) -> NDArray[np.float64]:
    """(clients,) entropy of each label distribution in nats: 0 for a single label."""
    share = shares(counts)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    return np.asarray(np.abs((share * logs).sum(axis=1)))


def effective_labels(counts: Table) -> NDArray[np.float64]:
    """(clients,) exp(entropy): 1 for a single label, L for L equally frequent ones."""
    return np.asarray(np.exp(entropy(counts)))


def total_variation(counts: Table) -> NDArray[np.float64]:
    """(clients,) total-variation distance from the distribution of all data, in [0, 1)."""
    whole = counts.sum(axis=0) / max(1, counts.sum())
    return np.asarray(0.5 * np.abs(shares(counts) - whole).sum(axis=1))


@dataclass(frozen=True)
class Statistics:
    """A population in figures; the last two are means over clients."""

    clients: int
    examples: int
    smallest: int
    median: float
    largest: int
    total_variation: float
    effective_labels: float

    def __str__(self) -> str:
        return (
            f"{self.clients} clients, {self.examples} examples ({self.smallest} to {self.largest} each, "
            f"median {self.median:g}), {self.effective_labels:.1f} effective labels each, "
            f"total variation {self.total_variation:.2f}"
        )


def describe(counts: Table) -> Statistics:
    """The figures of a population. Raises ConfigError if there is no client."""
    _check(counts)
    size = counts.sum(axis=1)
    return Statistics(
        len(counts),
        int(size.sum()),
        int(size.min()),
        float(np.median(size)),
        int(size.max()),
        float(total_variation(counts).mean()),
        float(effective_labels(counts).mean()),
    )


def _check(counts: Table) -> None:
    if counts.ndim != 2 or not counts.size:
        raise ConfigError(f"label counts must be a table of clients by labels, not of shape {counts.shape}")


def label_picture(counts: Table, names: Sequence[str] | None = None) -> str:
    """An inline SVG: a bar for each client, as high as it has examples, divided by label.

    Bars are ordered by their most frequent label, then by its share. names: of the labels. More than
    500 clients are sampled evenly; of more than 12 labels the rarest share one colour. Both are said
    in the picture.
    """
    _check(counts)
    names = [str(i) for i in range(counts.shape[1])] if names is None else names
    if len(names) != counts.shape[1]:
        raise ConfigError(f"{len(names)} names for {counts.shape[1]} labels")
    shown, colours, bars = _fold(counts, names)
    bars = bars[np.lexsort((-shares(bars).max(axis=1), bars.argmax(axis=1)))]
    said = f"{len(counts)} clients"
    if len(bars) > MOST_BARS:
        bars = bars[np.linspace(0, len(bars) - 1, MOST_BARS).astype(np.int64)]
        said = f"{MOST_BARS} of {len(counts)} clients, evenly sampled"
    paths = _paths(bars, shown, colours)
    title = f"Examples by label: {said}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:g} {_HEIGHT + _TOP + 2 * _KEY:g}" '
        f'role="img" aria-label="{escape(title)}" font-family="sans-serif" font-size="11" '
        f'fill="currentColor">{"".join(paths)}{_axes(bars, said)}{_key(shown, colours)}</svg>'
    )


def _fold(counts: Table, names: Sequence[str]) -> tuple[list[str], list[str], Table]:
    """Names, colours and counts of at most 12 labels: the rarest are summed."""
    if len(names) <= len(_COLOURS):
        return list(names), list(_COLOURS[: len(names)]), counts
    common = np.argsort(-counts.sum(axis=0), kind="stable")
    kept, rare = np.sort(common[: len(_COLOURS) - 1]), common[len(_COLOURS) - 1 :]
    folded = np.column_stack([counts[:, kept], counts[:, rare].sum(axis=1)])
    shown = [names[int(i)] for i in kept]
    return [*shown, f"{len(rare)} others"], [*_COLOURS[: len(kept)], _REST], folded


def _paths(bars: Table, names: Sequence[str], colours: Sequence[str]) -> list[str]:
    """One path for each label, with a title that browsers show as a hint."""
    scale = _HEIGHT / max(1, int(bars.sum(axis=1).max()))
    step = (_WIDTH - _LEFT) / len(bars)
    width = step * (0.9 if len(bars) <= 150 else 1.0)
    tops = np.cumsum(bars, axis=1)
    drawn = []
    for label, (name, colour) in enumerate(zip(names, colours, strict=True)):
        boxes = [
            f"M{_LEFT + i * step:.5g} {_TOP + _HEIGHT - tops[i, label] * scale:.5g}"
            f"h{width:.4g}v{bars[i, label] * scale:.4g}h-{width:.4g}z"
            for i in np.flatnonzero(bars[:, label]).tolist()
        ]
        title = f"<title>{escape(name)}: {bars[:, label].sum()} examples</title>"
        drawn.append(f'<path fill="{colour}" d="{"".join(boxes)}">{title}</path>')
    return drawn


def _axes(bars: Table, said: str) -> str:
    floor = _TOP + _HEIGHT
    highest = int(bars.sum(axis=1).max())
    return (
        f'<path d="M{_LEFT:g} {_TOP:g}v{_HEIGHT:g}h{_WIDTH - _LEFT:g}" fill="none" stroke="currentColor"/>'
        f'<text x="{_LEFT - 6:g}" y="{_TOP + 8:g}" text-anchor="end">{highest}</text>'
        f'<text x="{_LEFT - 6:g}" y="{floor:g}" text-anchor="end">0</text>'
        f'<text x="{(_LEFT + _WIDTH) / 2:g}" y="{floor + 16:g}" text-anchor="middle">{escape(said)}</text>'
    )


def _key(names: Sequence[str], colours: Sequence[str]) -> str:
    step = (_WIDTH - _LEFT) / 6
    parts = []
    for i, (name, colour) in enumerate(zip(names, colours, strict=True)):
        x, y = _LEFT + (i % 6) * step, _TOP + _HEIGHT + _KEY + 16 * (i // 6)
        short = name if len(name) <= 14 else name[:13] + "…"
        parts.append(f'<rect x="{x:.4g}" y="{y - 9:g}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 14:.4g}" y="{y:g}">{escape(short)}</text>')
    return "".join(parts)
