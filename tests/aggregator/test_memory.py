"""What is freed goes back to the system, also from between what is kept."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
from fedkit.aggregator.memory import frugal

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

if sys.argv[1] == "frugal" and not frugal():
    print("no glibc")
    sys.exit()
large = b"x" * (16 << 20)  # once it is freed, glibc takes smaller ones for worth keeping
del large
before, bodies, pins = resident(), [], []
for number in range(64):
    bodies.append(bytes([number]) * (1 << 20))
    pins.append(bytes([number]) * 4000)
del bodies
print(resident() - before)
"""


def kept(how: str) -> float:
    """MB that stay resident of 64 that were freed."""
    made = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True)
    if made.stdout == "no glibc\n":
        pytest.skip("there is no glibc here")
    return float(made.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is a matter of Linux")
def test_what_is_freed_goes_back() -> None:
    assert kept("frugal") < 8 < kept("as it is")
