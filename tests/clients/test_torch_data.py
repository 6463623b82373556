import re
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from fedkit.errors import DataError
from fedkit_clients.data import ClientArrays
from fedkit_clients.torch_data import check, source

CPU = torch.device("cpu")
X = np.arange(14.0).reshape(7, 2)
Y = np.arange(7, dtype=np.int32)


class Pairs(Dataset[tuple[np.ndarray, int]]):
    def __len__(self) -> int:
        return len(Y)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return X[index], int(Y[index])


class Endless(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(7))


def _rows(examples: object, order: np.ndarray | None, batch: int, steps: int) -> list[list[int]]:
    made = source(examples, torch.float32, CPU)  # type: ignore[arg-type]
    assert len(made) == 7
    batches = list(made.batches(order, batch, steps))
    for x, y in batches:
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert x[:, 0].tolist() == (2 * y).tolist()
    return [y.tolist() for _, y in batches]


EXAMPLES = [
    (X, Y),
    (torch.from_numpy(X), Y),
    Pairs(),
    TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
]


@pytest.mark.parametrize("examples", EXAMPLES)
def test_every_kind_of_examples_gives_the_same_batches(examples: object) -> None:
    order = np.array([6, 5, 4, 3, 2, 1, 0])
    assert _rows(examples, order, 3, 3) == [[6, 5, 4], [3, 2, 1], [0]]
    assert _rows(examples, order, 3, 2) == [[6, 5, 4], [3, 2, 1]]
    assert _rows(examples, None, 5, 2) == [[0, 1, 2, 3, 4], [5, 6]]
    assert _rows(examples, None, 3, 1) == [[0, 1, 2]]


def test_integer_inputs_stay_what_they_are_and_floating_targets_follow_the_module() -> None:
    made = source((Y.astype(np.uint8), X), torch.float64, CPU)
    x, y = next(iter(made.batches(None, 7, 1)))
    assert (x.dtype, y.dtype) == (torch.uint8, torch.float64)


def test_arrays_of_the_modules_dtype_are_not_copied() -> None:
    x = np.ones((7, 2), np.float32)
    made: Tensor = next(iter(source((x, Y), torch.float32, CPU).batches(None, 7, 1)))[0]
    assert np.shares_memory(made.numpy(), x)


def test_what_has_no_length_or_two_lengths_is_refused() -> None:
    with pytest.raises(DataError, match="Endless has no length"):
        check({"a": Endless()})
    with pytest.raises(DataError, match="client 'b': parts of 7 and 6 examples"):
        check({"a": (X, Y), "b": (X, Y[:6])})


@pytest.mark.parametrize("bad", [np.ones(7, complex), np.zeros(7, "M8[s]"), np.array(["a"] * 7)])
def test_arrays_that_torch_cannot_take_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(DataError, match=f"client 'a': targets are {re.escape(bad.dtype.name)}"):
        check({"a": (X, bad)})
    with pytest.raises(DataError, match="client data: targets are"):
        check(ClientArrays(X, bad, {"a": np.arange(7)}))
