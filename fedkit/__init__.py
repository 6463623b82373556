"""fedkit: federated learning with exact sums, rounds that end and runs that resume."""

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
