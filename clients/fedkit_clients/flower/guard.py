"""Which versions of Flower are supported."""

from __future__ import annotations

import re
from importlib import metadata

from fedkit.errors import ConfigError

FIRST, BEYOND = (1, 41), (1, 43)
"""The extra `fedkit[flower]` in pyproject.toml says the same."""


def demand_flower() -> str:
    """The version of Flower that is installed; ConfigError if there is none, or one outside the range."""
    wanted = f"flwr>={_text(FIRST)},<{_text(BEYOND)}"
    try:
        version = metadata.version("flwr")
    except metadata.PackageNotFoundError:
        raise ConfigError(f"Flower is not installed here: pip install 'fedkit[flower]' ({wanted})") from None
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or not FIRST <= (int(found[1]), int(found[2])) < BEYOND:
        raise ConfigError(
            f"Flower {version} is installed, fedkit works with {wanted}: pip install 'fedkit[flower]'"
        )
    return version


def _text(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
