import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import DataError
from fedkit_clients.data import ClientArrays, client_size, label_counts, max_weight

X = np.arange(24.0).reshape(8, 3)
Y = np.array([0, 1, 2, 0, 1, 2, 2, 2])


def test_consecutive_indices_are_views_and_others_are_gathered() -> None:
    clients = ClientArrays(X, Y, {"a": np.array([2, 3, 4]), "b": np.array([5, 1]), "c": np.array([], int)})
    x, y = clients["a"]
    assert np.shares_memory(x, X)
    assert np.shares_memory(y, Y)
    assert clients["b"][0].tolist() == X[[5, 1]].tolist()
    assert clients["b"][1].tolist() == [2, 1]
    assert [client_size(clients, c) for c in clients] == [3, 2, 0]
    assert "a" in clients
    assert "z" not in clients
    assert len(clients) == 3


@given(st.lists(st.integers(0, 7), max_size=12))
def test_any_indices_give_their_examples(rows: list[int]) -> None:
    clients = ClientArrays(X, Y, {"a": np.array(rows, np.int64)})
    x, y = clients["a"]
    assert x.tolist() == X[rows].tolist()
    assert y.tolist() == clients.targets("a").tolist() == Y[rows].tolist()
    assert clients.size("a") == len(rows)


@pytest.mark.parametrize(
    "rows", [np.array([0, 8]), np.array([-1, 0]), np.array([0.0, 1.0]), np.zeros((2, 2), int)]
)
def test_wrong_indices_are_refused_by_client(rows: np.ndarray) -> None:
    with pytest.raises(DataError, match="client 'a'"):
        ClientArrays(X, Y, {"a": rows})


def test_one_target_per_example() -> None:
    with pytest.raises(DataError, match="8 examples and y has 7"):
        ClientArrays(X, Y[:7], {})


def test_label_counts_of_shared_arrays_and_of_plain_pairs() -> None:
    rows = {"a": np.array([0, 1, 3]), "b": np.array([7, 2]), "c": np.array([], int)}
    shared = ClientArrays(X, Y, rows)
    expected = {"a": [2, 1, 0], "b": [0, 0, 2], "c": [0, 0, 0]}
    assert {c: n.tolist() for c, n in label_counts(shared).items()} == expected
    assert {c: n.tolist() for c, n in label_counts(dict(shared)).items()} == expected


def test_label_counts_are_for_class_numbers_only() -> None:
    assert label_counts({"a": (X, X[:, 0])}) == {}
    assert label_counts({"a": (X, Y[:, None])}) == {}
    assert label_counts({"a": (X, Y - 1)}) == {}


@pytest.mark.parametrize("label", [10_000, 10**12, 2**63 - 1])
def test_labels_that_are_ids_take_no_memory_by_their_value(label: int) -> None:
    ids = Y.copy()
    ids[3] = label
    assert label_counts({"a": (X, Y), "b": (X, ids)}) == {}
    ids[3] = 9_999
    assert label_counts({"a": (X, ids)})["a"].shape == (10_000,)


@pytest.mark.parametrize(("size", "weight"), [(1, 1.0), (2, 2.0), (3, 4.0), (8, 8.0)])
def test_max_weight_is_the_next_power_of_two(size: int, weight: float) -> None:
    assert max_weight({"a": (X[:1], Y[:1]), "b": (X[:size], Y[:size])}) == weight


def test_max_weight_covers_every_group_and_none() -> None:
    assert max_weight({"a": (X[:1], Y[:1])}, {"a": (X, Y)}) == 8.0
    assert max_weight({}) == 1.0
