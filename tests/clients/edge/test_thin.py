"""A device in an environment that really has the base install alone: it trains, and it stays small."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

from fedkit.keyfile import make_key
from fedkit.secagg.identity import Trust
from fedkit.secagg.rosterfile import write_trust
from tests.ports import reserved

ROOT = Path(__file__).parents[3]
ROUNDS = 5
RESIDENT, ON_DISK = 60, 120
"""Megabytes (2^20 bytes) that a device may take: in memory, and on its disk beyond Python."""
WARD = """
import numpy as np
from fedkit_clients import MLP, NumpyWorkload

def hospital(rows: int = 100):
    x = np.linspace(-1, 1, rows * 784, dtype=np.float32).reshape(rows, 784)
    return NumpyWorkload(MLP(784, (320,), 10), {"ward": (x, np.arange(rows) % 10)})
"""
SCENARIO = f"""
workload = "ward.py:hospital"
[rounds]
count = {ROUNDS}
deadline = 600.0
[train]
epochs = 1
batch = 20
lr = 0.01
"""
LACKS = "import importlib.util as u; print(*(n for n in {} if u.find_spec(n)))".format(
    ["torch", "flwr", "ray", "sklearn", "starlette", "uvicorn", "prometheus_client", "pytest"]
)
_FEDKIT = "import sys; from fedkit.cli import main; sys.exit(main())"


@pytest.fixture
def thin(tmp_path: Path) -> Path:
    """Where the programs of the environment are."""
    venv.create(tmp_path / "venv")
    bin_ = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    before = _megabytes(tmp_path / "venv")
    _pip(tmp_path, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "built", str(ROOT))
    (wheel,) = (tmp_path / "built").glob("*.whl")
    _pip(tmp_path, "--python", str(bin_ / "python"), "install", str(wheel))
    assert _megabytes(tmp_path / "venv") - before <= ON_DISK
    return bin_


def _pip(folder: Path, *words: str) -> None:
    """This environment's pip, which is not among what a device needs."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *words]
    subprocess.run(command, check=True, timeout=600, env=_bare(), cwd=folder)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thin_device_trains_and_stays_small(tmp_path: Path, thin: Path) -> None:
    lacking = subprocess.run([thin / "python", "-c", LACKS], capture_output=True, text=True, env=_bare())
    assert lacking.stdout.strip() == ""
    (tmp_path / "ward.py").write_text(WARD)
    (tmp_path / "s.toml").write_text(SCENARIO)
    server, key = make_key(tmp_path / "agg").public, make_key(tmp_path / "ward").public
    write_trust(tmp_path / "roster.toml", Trust.of_roster({"ward": key}, server))
    with reserved() as port:
        most = _run(tmp_path, thin, f"127.0.0.1:{port}")
    assert most <= RESIDENT


def _run(folder: Path, thin: Path, address: str) -> float:
    """An aggregator and the device, until the run is over; megabytes of the device."""
    serve = [sys.executable, "-c", _FEDKIT, "serve", "s.toml", "--address", address, "--dir", "agg"]
    client = [str(thin / "fedkit"), "client", f"https://{address}"]
    client += ["--workload", "ward:hospital", "--dir", "ward"]
    with (folder / "server.log").open("wb") as log, (folder / "client.log").open("wb") as said:
        aggregator = subprocess.Popen([*serve, "--patience", "600"], cwd=folder, stdout=log, stderr=log)
        device = subprocess.Popen(client, cwd=folder, stderr=said, env=_bare())
        try:
            most = _watched(aggregator, device)
            assert aggregator.returncode == 0, (folder / "server.log").read_text()
        except AssertionError as error:
            raise AssertionError(f"{error}\n{(folder / 'client.log').read_text()[-3000:]}") from error
        finally:
            for process in (aggregator, device):
                process.kill()
                process.wait(600)
    return most


def _watched(aggregator: subprocess.Popen[bytes], device: subprocess.Popen[bytes]) -> float:
    """Megabytes of the device in memory, the last that was seen before the run ended."""
    last, end = 0.0, time.monotonic() + 600
    while aggregator.poll() is None:
        assert time.monotonic() < end, "it takes too long"
        assert device.poll() is None, "the device has ended"
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{device.pid}/status").read_text())
        last = int(found[1]) / 1024 if found else last
        time.sleep(0.1)
    return last


def _bare() -> dict[str, str]:
    """The environment of a process that knows nothing of the repository."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
