"""Figures and the picture of a population, against values worked out by hand."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedkit.errors import ConfigError
from fedkit_simulations.statistics import (
    describe,
    effective_labels,
    entropy,
    label_counts,
    label_picture,
    total_variation,
)

SVG = "{http://www.w3.org/2000/svg}"
COUNTS = np.array([[8, 0], [4, 4], [0, 8]])
tables = arrays(np.int64, st.tuples(st.integers(1, 12), st.integers(1, 15)), elements=st.integers(0, 50))


def test_label_counts_have_a_row_per_client_and_a_column_per_label() -> None:
    labels = np.array(["b", "a", "b", "c"])
    parts = {"x": np.array([0, 2]), "y": np.array([1, 3]), "z": np.array([], np.int64)}
    assert label_counts(labels, parts).tolist() == [[0, 2, 0], [1, 0, 1], [0, 0, 0]]


def test_figures_by_hand() -> None:
    np.testing.assert_allclose(entropy(COUNTS), [0.0, np.log(2), 0.0])
    np.testing.assert_allclose(effective_labels(COUNTS), [1.0, 2.0, 1.0])
    np.testing.assert_allclose(total_variation(COUNTS), [0.5, 0.0, 0.5])
    figures = describe(COUNTS)
    assert (figures.clients, figures.examples, figures.smallest, figures.largest) == (3, 24, 8, 8)
    assert "3 clients, 24 examples (8 to 8 each, median 8)" in str(figures)


@given(tables)
def test_figures_stay_in_their_ranges(counts: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> None:
    distance, labels = total_variation(counts), effective_labels(counts)
    assert ((distance >= 0) & (distance <= 1 + 1e-12)).all()
    assert ((labels >= 1 - 1e-12) & (labels <= counts.shape[1] + 1e-9)).all()


@pytest.mark.parametrize("clients", [1, 4, 50, 500])
def test_every_client_and_label_is_drawn(clients: int) -> None:
    counts = np.tile([[3, 1, 2]], (clients, 1))
    root = ElementTree.fromstring(label_picture(counts, ["<a>", "b", "c"]))
    paths = [path for path in root.iter(f"{SVG}path") if path.find(f"{SVG}title") is not None]
    assert [(path.get("d") or "").count("M") for path in paths] == [clients] * 3
    assert paths[0].findtext(f"{SVG}title") == f"<a>: {3 * clients} examples"
    heights = [float((path.get("d") or "").split("v")[1].split("h")[0]) for path in paths]
    np.testing.assert_allclose(np.array(heights) / sum(heights), [3 / 6, 1 / 6, 2 / 6], rtol=1e-3)


def test_more_clients_are_sampled_and_the_picture_says_so() -> None:
    picture = label_picture(np.ones((2000, 3), np.int64))
    assert "500 of 2000 clients, evenly sampled" in picture
    assert picture.count("M") < 3 * 500 + 10
    assert len(picture) < 100_000


def test_rare_labels_share_a_colour() -> None:
    counts = np.arange(1, 81)[None, :]
    root = ElementTree.fromstring(label_picture(counts))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "69 others" in texts
    assert "79" in texts
    assert "0" in texts


def test_empty_and_misnamed_tables_are_errors() -> None:
    for counts in (np.zeros((0, 3), np.int64), np.zeros(3, np.int64)):
        with pytest.raises(ConfigError, match="table of clients by labels"):
            describe(counts)
        with pytest.raises(ConfigError, match="table of clients by labels"):
            label_picture(counts)
    with pytest.raises(ConfigError, match="1 names for 2 labels"):
        label_picture(COUNTS, ["a"])
