"""The core in a real environment that has numpy and cryptography and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_import_needs_numpy_and_cryptography_only(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--quiet",
        "--python",
        str(python),
        "install",
    ]
    subprocess.run([*pip, "install", "numpy", "cryptography"], check=True, timeout=600)
    code = "import fedkit, sys; assert not {'torch', 'safetensors', 'typer', 'rich'} & set(sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [python, "-c", code], env=environment, cwd=tmp_path, text=True, capture_output=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
