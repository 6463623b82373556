"""Build the wheel, install it in a fresh environment outside the repository, and use it there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
USE = """
import importlib.metadata, pathlib, fedkit, fedkit_strategies, fedkit_clients, fedkit_simulations
for module in (fedkit, fedkit_strategies, fedkit_clients, fedkit_simulations):
    path = pathlib.Path(module.__file__)
    assert "site-packages" in path.parts, path
    assert (path.parent / "py.typed").exists(), path
assert importlib.metadata.version("fedkit") == fedkit.__version__
"""


def call(*command: str | Path, cwd: Path) -> str:
    """Run a command there, with nothing of the repository on the path; its output."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    print("$", *command, flush=True)
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    return done.stdout


def main() -> None:
    """Fails with the command that failed."""
    with tempfile.TemporaryDirectory() as name:
        there = Path(name)
        call(sys.executable, "-m", "build", "--outdir", there / "dist", ROOT, cwd=there)
        wheel = next((there / "dist").glob("*.whl"))
        assert next((there / "dist").glob("*.tar.gz")).stat().st_size < 5_000_000
        venv.create(there / "venv", with_pip=True)
        bin_ = there / "venv" / ("Scripts" if os.name == "nt" else "bin")
        call(bin_ / "python", "-m", "pip", "install", "--quiet", f"{wheel}[demo]", cwd=there)
        call(bin_ / "python", "-c", USE, cwd=there)
        for command in ("scenarios", "strategies", "codecs", "doctor"):
            assert call(bin_ / "fedkit", command, cwd=there).strip()
        call(bin_ / "fedkit", "run", "digits", "rounds.count=2", "--out", "run", cwd=there)
        assert (there / "run" / "report.html").stat().st_size > 10_000
        print("the wheel works outside the repository")


if __name__ == "__main__":
    main()
