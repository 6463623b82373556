"""Trainers: numpy alone, or any torch.nn.Module. torch is imported when TorchWorkload is asked for."""

from typing import TYPE_CHECKING

from fedkit_clients.data import ClientArrays, label_counts
from fedkit_clients.numpy_trainer import MLP, NumpyWorkload, Softmax
from fedkit_clients.settings import TrainSettings

if TYPE_CHECKING:
    from fedkit_clients.torch_trainer import TorchWorkload

__all__ = [
    "MLP",
    "ClientArrays",
    "NumpyWorkload",
    "Softmax",
    "TorchWorkload",
    "TrainSettings",
    "label_counts",
]


def __getattr__(name: str) -> object:
    if name == "TorchWorkload":
        from fedkit_clients.torch_trainer import TorchWorkload

        return TorchWorkload
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
