from __future__ import annotations

import json
import re

import numpy as np
import pytest

from fedkit.report.data import Labels
from fedkit.report.labels import labels_section


def _labels(clients: int, classes: int, seed: int = 0) -> Labels:
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(30, rng.dirichlet([0.3] * classes, size=clients))
    return Labels(
        tuple(map(str, range(classes))), tuple(f"c{i}" for i in range(clients)), counts.astype(np.int64)
    )


def _area(page: str, colour: str) -> float:
    """Share of the heat map that has this colour."""
    found = re.search(rf'<path d="([^"]*)" class="fill {colour}"', page)
    boxes = re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)H([\d.]+)V", found.group(1)) if found else []
    return sum((float(c) - float(a)) * (float(b) - float(d)) for a, b, d, c in boxes) / 1e6


@pytest.mark.parametrize(("clients", "classes"), [(1, 2), (4, 2), (50, 10), (539, 62), (700, 130)])
def test_the_coloured_area_is_the_share_of_cells_that_hold_examples(clients: int, classes: int) -> None:
    labels = _labels(clients, classes)
    page = labels_section(labels)
    assert len(page) < 400_000
    if clients <= 600 and classes <= 100:
        coloured = sum(_area(page, f"h{i}") for i in range(1, 9))
        assert coloured == pytest.approx((labels.counts > 0).mean(), abs=0.02)


def test_every_client_can_be_pointed_at() -> None:
    page = labels_section(_labels(50, 10))
    blocks = re.findall(r'<script type="application/json">(.*?)</script>', page)
    for block in blocks:
        assert sorted(json.loads(block)[0]["h"]) == sorted(f"c{i}" for i in range(50))


def test_more_clients_than_columns_are_summed() -> None:
    labels = _labels(1300, 3)
    block = json.loads(
        re.findall(r'<script type="application/json">(.*?)</script>', labels_section(labels))[1]
    )[0]
    sums = [int(text.split(" ")[0].replace(",", "")) for text in block["t"]]
    assert len(sums) == 600
    assert sum(sums) == labels.counts.sum()
    assert "and 2 more" in block["h"][0]


def test_many_classes_end_in_a_row_of_others() -> None:
    assert ">31 others<" in labels_section(_labels(5, 130))


def test_says_how_far_the_clients_are_from_each_other() -> None:
    apart = Labels(("0", "1"), ("a", "b"), np.array([[10, 0], [0, 10]]))
    alike = Labels(("0", "1"), ("a", "b"), np.array([[5, 5], [5, 5]]))
    assert "by 0.50 on average" in labels_section(apart)
    assert "by 0.00 on average" in labels_section(alike)


def test_clients_without_examples_are_drawn_empty() -> None:
    page = labels_section(Labels(("0",), ("a", "b"), np.zeros((2, 1), dtype=np.int64)))
    assert "0 to 0 each" in page
    assert 'class="fill h' not in page


def test_names_are_text() -> None:
    page = labels_section(Labels(("<i>",), ("</script><script>x",), np.array([[3]])))
    assert "<i>" not in page
    assert page.count("<script") == 2
