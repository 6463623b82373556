"""Minibatches of tensors for torch modules, from arrays or from a torch Dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset, default_collate

from fedkit.errors import DataError
from fedkit.messages import ClientId
from fedkit_clients.data import ClientArrays
from fedkit_clients.torch_module import as_tensor

TorchExamples: TypeAlias = "tuple[NDArray[Any] | Tensor, NDArray[Any] | Tensor] | Dataset[Any]"
Order: TypeAlias = "NDArray[np.int64] | None"


class Source(Protocol):
    """Examples that can be read in batches."""

    def __len__(self) -> int: ...

    def batches(self, order: Order, batch: int, steps: int) -> Iterator[tuple[Any, Any]]:
        """The first `steps` batches of (inputs, targets) in `order`, the natural one if None."""
        ...


def source(examples: TorchExamples, dtype: torch.dtype, device: torch.device) -> Source:
    """Examples as the module takes them.

    Floating inputs and targets get the module's dtype, integer targets become int64, integer inputs
    stay what they are.
    """
    if isinstance(examples, tuple):
        x, y = examples
        return _TensorSource(_input(x, dtype, device), _target(y, dtype, device))
    if isinstance(examples, TensorDataset) and len(examples.tensors) == 2:
        return source((examples.tensors[0], examples.tensors[1]), dtype, device)
    return _DatasetSource(examples, dtype, device)


class _TensorSource:
    """Gathered once per epoch: batches are views."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self._x = x
        self._y = y

    def __len__(self) -> int:
        return len(self._y)

    def batches(self, order: Order, batch: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self._x, self._y
        if order is not None:
            index = torch.from_numpy(order[: batch * steps]).to(x.device)
            x, y = x.index_select(0, index), y.index_select(0, index)
        pairs = zip(torch.split(x, batch), torch.split(y, batch), strict=True)
        for _, pair in zip(range(steps), pairs, strict=False):
            yield pair


class _DatasetSource:
    """Items of a map-style Dataset, (input, target) each, collated batch by batch."""

    def __init__(self, dataset: Dataset[Any], dtype: torch.dtype, device: torch.device) -> None:
        self._dataset = dataset
        self._dtype = dtype
        self._device = device
        self._size = _size(dataset)

    def __len__(self) -> int:
        return self._size

    def batches(self, order: Order, batch: int, steps: int) -> Iterator[tuple[Any, Any]]:
        rows = np.arange(self._size) if order is None else order
        for start in range(0, min(batch * steps, self._size), batch):
            x, y = default_collate([self._dataset[int(i)] for i in rows[start : start + batch]])
            yield _input(x, self._dtype, self._device), _target(y, self._dtype, self._device)


def check(group: Mapping[ClientId, TorchExamples]) -> None:
    """DataError unless every client has one target per input, or a map-style Dataset."""
    if isinstance(group, ClientArrays):  # its lengths were checked when it was made
        _numeric("client data", (group.x, group.y))
        return
    for client, examples in group.items():
        if not isinstance(examples, tuple):
            _size(examples)
        elif len(examples) != 2 or len(examples[0]) != len(examples[1]):
            lengths = " and ".join(str(len(part)) for part in examples)
            raise DataError(f"client {client!r}: parts of {lengths} examples; give (x, y) of one length")
        else:
            _numeric(f"client {client!r}", examples)


def _numeric(where: str, examples: Sequence[Any]) -> None:
    """DataError for arrays that torch cannot take; tensors it can."""
    for what, part in zip(("inputs", "targets"), examples, strict=True):
        if isinstance(part, np.ndarray) and part.dtype.kind not in "biuf":
            raise DataError(f"{where}: {what} are {part.dtype.name}, they must be real numbers")


def _size(dataset: Dataset[Any]) -> int:
    """Length of a map-style Dataset; DataError for one that can only be iterated."""
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise DataError(
            f"{type(dataset).__name__} has no length: clients need a map-style Dataset "
            "(__len__ and __getitem__) or a pair (x, y)"
        )
    return len(cast("Sized", dataset))


def _input(x: Any, dtype: torch.dtype, device: torch.device) -> Any:
    if isinstance(x, dict):
        return {key: _input(value, dtype, device) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [_input(value, dtype, device) for value in x]
    tensor = as_tensor(x)
    return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)


def _target(y: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    tensor = as_tensor(y)
    floating = tensor.is_floating_point()
    whole = not floating and tensor.dtype != torch.bool
    return tensor.to(device, dtype if floating else torch.int64 if whole else tensor.dtype)
