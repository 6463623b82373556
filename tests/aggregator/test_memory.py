"""What is freed goes back to the system, also from many threads."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import threading
from fedkit.aggregator.memory import frugal

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

def work(size):
    kept = []
    for _ in range(20):
        kept.append(bytearray(b"x" * size))
        kept = kept[-4:]

assert frugal()
before = resident()
threads = [threading.Thread(target=work, args=(size,)) for size in (1 << 19, 1 << 20, 3 << 20) * 4]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is a matter of Linux")
def test_what_threads_free_goes_back() -> None:
    made = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    if "AssertionError" in made.stderr:
        pytest.skip("there is no glibc here")
    assert float(made.stdout) < 8, made.stderr
