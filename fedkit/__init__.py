"""fedkit: federated learning that holds."""

__version__ = "0.1.0"
API_VERSION = 1
