"""fedkit: federated learning with exact sums, rounds that end and runs that resume."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedkit.aggregate import Grid, WeightedSum
    from fedkit.errors import ConfigError, FedkitError, RunFailed
    from fedkit.federation import RoundPolicy
    from fedkit.history import History, RoundRecord
    from fedkit.messages import Pass, Task, Trained, Update
    from fedkit.rounds import Result, run
    from fedkit.secagg.settings import SecAgg
    from fedkit.strategy import Strategy
    from fedkit.tensors import State, Tensors

__version__ = "0.1.0"
API_VERSION = 1

__all__ = [
    "API_VERSION",
    "ConfigError",
    "FedkitError",
    "Grid",
    "History",
    "Pass",
    "Result",
    "RoundPolicy",
    "RoundRecord",
    "RunFailed",
    "SecAgg",
    "State",
    "Strategy",
    "Task",
    "Tensors",
    "Trained",
    "Update",
    "WeightedSum",
    "run",
]

_HOMES = {
    "aggregate": ("Grid", "WeightedSum"),
    "errors": ("ConfigError", "FedkitError", "RunFailed"),
    "federation": ("RoundPolicy",),
    "history": ("History", "RoundRecord"),
    "messages": ("Pass", "Task", "Trained", "Update"),
    "rounds": ("Result", "run"),
    "secagg.settings": ("SecAgg",),
    "strategy": ("Strategy",),
    "tensors": ("State", "Tensors"),
}


def __getattr__(name: str) -> object:
    """Loaded when asked for: a device needs none of the server's half, and starts sooner without it."""
    for home, names in _HOMES.items():
        if name in names:
            found: object = getattr(import_module(f"fedkit.{home}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module 'fedkit' has no attribute {name!r}")
