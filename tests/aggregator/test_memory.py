"""What is freed goes back to the system, also from between what is kept; connections that wait are cheap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
from fedkit.aggregator.memory import frugal, give_back

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
if sys.argv[1] == "frugal":
    give_back()
print(resident() - before)
"""


def kept(how: str) -> float:
    """MB that stay resident of 64 that were freed."""
    made = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True)
    if made.stdout == "no glibc\n":
        pytest.skip("there is no glibc here")
    return float(made.stdout)


CONNECTIONS = """
import socket, ssl, sys
from contextlib import ExitStack
from pathlib import Path
from fedkit.aggregator.listener import Listener
from fedkit.aggregator.memory import frugal
from fedkit.keyfile import make_key

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

async def app(scope, receive, send):
    assert scope["type"] == "lifespan"

if sys.argv[1] == "frugal":
    frugal()
folder = Path(sys.argv[2])
make_key(folder)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
with Listener(app, "127.0.0.1", 0, folder) as listener, ExitStack() as stack:
    where = ("127.0.0.1", int(listener.url.rpartition(":")[2]))
    for number in range(60):
        if number == 10:
            before = resident()
        stack.enter_context(context.wrap_socket(stack.enter_context(socket.create_connection(where))))
    print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is a matter of Linux")
def test_a_connection_that_waits_takes_little(tmp_path: Path) -> None:
    """Both ends of fifty, in MB."""
    grown = []
    for how in ("frugal", "as it is"):
        command = [sys.executable, "-c", CONNECTIONS, how, str(tmp_path / how)]
        made = subprocess.run(command, capture_output=True, text=True, check=True)
        grown.append(float(made.stdout))
    assert grown[0] < grown[1] - 7


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is a matter of Linux")
def test_what_is_freed_goes_back() -> None:
    assert kept("frugal") < 8 < kept("as it is")
