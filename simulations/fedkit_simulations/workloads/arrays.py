"""A user's own data as a workload: arrays in .npz, a table in CSV, or a torch Dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fedkit.config import Population
from fedkit.errors import DataError
from fedkit.messages import ClientId
from fedkit.seeds import stream
from fedkit_clients.data import MOST_CLASSES, ClientArrays
from fedkit_clients.numpy_trainer import MLP, NumpyWorkload, Softmax
from fedkit_simulations.population import Indices, partition
from fedkit_simulations.workloads.features import standardise as scale_columns
from fedkit_simulations.workloads.table import read_table

if TYPE_CHECKING:
    from torch.utils.data import Subset


class Items(Protocol):
    """What a map-style torch Dataset is."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class ArraysWorkload(NumpyWorkload):
    """NumpyWorkload that keeps the labels as they stand in the data: class k is class_names[k]."""

    class_names: tuple[str, ...] = ()

    def label_counts(self) -> Mapping[ClientId, NDArray[np.int64]]:
        """Examples per class of every client: one column for each class, trained on or not."""
        width = len(self.class_names)
        return {c: np.pad(row, (0, width - len(row))) for c, row in super().label_counts().items()}


def arrays(
    *,
    path: str,
    population: Population,
    seed: int = 0,
    model: Literal["softmax", "mlp"] = "softmax",
    hidden: int | tuple[int, ...] = (64,),
    x: str = "x",
    y: str = "y",
    client: str = "",
    test_fraction: float = 0.2,
    standardise: bool = True,
) -> ArraysWorkload:
    """Your own .npz or .csv: softmax regression or a perceptron that classifies `y`.

    path: an .npz with arrays x (examples, ...), y (examples,) and, as you have them, client
    (examples,), x_test and y_test; or a .csv with a header. x, y, client name the arrays or columns;
    for a CSV x lists the feature columns ("age,weight"; default: all others), those that hold texts
    are one-hot encoded. hidden: widths of the layers of model "mlp". test_fraction: share of each
    client's examples that is held out, for its own evaluation and the server's, unless there is
    x_test. standardise: shift and scale features by mean and deviation of the training examples.
    Raises DataError on files that cannot be used, ConfigError on an impossible population.
    """
    if not 0 <= test_fraction < 1:
        raise DataError(f"test_fraction = {test_fraction}: must be at least 0 and below 1")
    table = read_table(path, x, y, client)
    labels, names = classes(path, table.y if table.test is None else np.concatenate([table.y, table.test[1]]))
    rows = len(table.x)
    parts = partition(labels[:rows], population, seed, table.client)
    train, held_out = (parts, {}) if table.test else hold_out(parts, test_fraction, seed)
    features = table.x if table.test is None else np.concatenate([table.x, table.test[0]])
    if standardise:
        features = scale_columns(features, _joined(train))
    tested = np.arange(rows, len(features)) if table.test else _joined(held_out)
    network = _model(model, features.shape[1], hidden, len(names))
    workload = ArraysWorkload(
        network,
        ClientArrays(features, labels, train),
        test=(features[tested], labels[tested]) if len(tested) else None,
        held_out=ClientArrays(features, labels, held_out),
    )
    workload.class_names = names
    return workload


def _joined(parts: Mapping[ClientId, Indices]) -> Indices:
    """All indices, in the order of clients."""
    return np.concatenate([*parts.values(), np.zeros(0, np.int64)])


def _model(model: str, features: int, hidden: int | Sequence[int], count: int) -> Softmax | MLP:
    if model == "softmax":
        return Softmax(features, count)
    return MLP(features, (hidden,) if isinstance(hidden, int) else tuple(hidden), count)


def classes(path: str, y: NDArray[Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels as 0, 1, ... in sorted order (numbers by value), and what each of them stands for."""
    if y.dtype.kind in "US":
        y = _numbers(y)
    if y.dtype.kind not in "biufUS":
        raise DataError(f"{path}: labels are {y.dtype.name}: give integers or texts, one for each class")
    if y.dtype.kind == "f" and not _whole(y).all():
        raise DataError(
            f"{path}: labels such as {y[~_whole(y)][0]} are not classes; this workload classifies"
        )
    if y.dtype.kind == "f":
        y = y.astype(np.int64)
    kinds, code = np.unique(y, return_inverse=True)
    if not 2 <= len(kinds) <= MOST_CLASSES:
        raise DataError(
            f"{path}: labels hold {len(kinds)} different values; 2 to {MOST_CLASSES} classes work"
        )
    return code.astype(np.int64), tuple(str(kind) for kind in kinds.tolist())


def _numbers(y: NDArray[Any]) -> NDArray[Any]:
    """Texts that are all numbers as numbers, so that "10" comes after "9"."""
    try:
        return y.astype(np.float64)
    except ValueError:
        return y


def _whole(y: NDArray[Any]) -> NDArray[np.bool_]:
    """Which floats are integers that float64 and int64 both hold exactly."""
    return np.asarray((np.abs(y) < 2.0**53) & (y == np.floor(y)))


def hold_out(
    parts: Mapping[ClientId, Indices], fraction: float, seed: int
) -> tuple[dict[ClientId, Indices], dict[ClientId, Indices]]:
    """(training, held-out) indices: `fraction` of each client's, rounded, but never its last one.

    Clients of whom nothing is held out are missing from the second.
    """
    train, held = {}, {}
    for client, rows in parts.items():
        count = min(int(fraction * len(rows) + 0.5), max(0, len(rows) - 1))
        order = stream(seed, "held-out", client).permutation(len(rows))
        train[client] = np.sort(rows[order[count:]])
        if count:
            held[client] = np.sort(rows[order[:count]])
    return train, held


def from_dataset(
    dataset: Items, population: Population, seed: int, targets: Sequence[int] | NDArray[Any] | None = None
) -> dict[ClientId, Subset[Any]]:
    """A torch Dataset divided among clients, for TorchWorkload: needs fedkit[torch].

    targets: the label of each example; by default those of dataset.targets, dataset.labels or
    dataset.tensors[1], else the second member of each example, read one by one.
    """
    import torch.utils.data as torch_data

    labels = np.asarray(_targets(dataset) if targets is None else targets)
    if labels.shape != (len(dataset),):
        raise DataError(f"targets have shape {labels.shape}, the data set holds {len(dataset)} examples")
    whole: Any = dataset
    parts = partition(labels, population, seed)
    return {client: torch_data.Subset(whole, rows.tolist()) for client, rows in parts.items()}


def _targets(dataset: Items) -> Any:
    for name in ("targets", "labels"):
        found = getattr(dataset, name, None)
        if found is not None:
            return found
    tensors: Sequence[Any] = getattr(dataset, "tensors", ())
    return tensors[1] if len(tensors) > 1 else [int(dataset[index][1]) for index in range(len(dataset))]
