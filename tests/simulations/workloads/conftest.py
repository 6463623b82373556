"""Where the real data sets are, for the tests marked `data`."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def real() -> Callable[[str], str]:
    """The path of a real data file; the test skips, naming the file, where it is absent."""

    def path(name: str) -> str:
        folder = os.environ.get("FEDKIT_DATA", "")
        if not folder or not (Path(folder) / name).is_file():
            pytest.skip(f"needs {name} in the directory FEDKIT_DATA (docs/data.md)")
        return str(Path(folder) / name)

    return path
