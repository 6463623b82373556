"""Federated algorithms, one file per paper."""

from fedkit_strategies.fedavg import FedAvg
from fedkit_strategies.fedprox import FedProx

__all__ = ["FedAvg", "FedProx"]
