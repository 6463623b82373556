"""Loss of 10 % and a delay of 200 ms by the kernel, where the machine allows it."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

NETEM = "ip link set lo up && tc qdisc add dev lo root netem delay 200ms loss 10%"


def apart(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A shell script in a network of its own."""
    command = ["unshare", "--net", "sh", "-c", script, "sh", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_run_over_a_lossy_slow_network_gives_the_same_model() -> None:
    if missing := [name for name in ("unshare", "ip", "tc") if shutil.which(name) is None]:
        pytest.skip(f"there is no {missing[0]} here")
    probe = apart(NETEM)
    if probe.returncode:
        pytest.skip(f"no netem on this machine: {probe.stderr.strip()}")
    done = apart(f'{NETEM} && exec "$@"', sys.executable, "-m", "tests.faults.soak", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing was lost" in done.stdout
