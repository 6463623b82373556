"""Killed at chosen instants: the model of the simulation, bit for bit, and nothing lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a matter of POSIX")


def at_work(folder: Path) -> bool:
    """Whether a client has a task, or a result that is not settled, on its disk."""
    return any(
        len(path.name) == 64 for stage in ("tasks", "finished") for path in folder.glob(f"*/{stage}/*")
    )


@pytest.mark.slow
def test_killed_at_work_and_while_others_wait_the_model_is_that_of_the_simulation(deploy: Any) -> None:
    one = deploy({"rounds": 8})
    client, other = one.clients["c001"], one.clients["c000"]
    one.until(lambda: at_work(one.folder / "c001") or one.rounds_done())
    assert client.kill() == -signal.SIGKILL
    done = one.rounds_done()
    one.until(lambda: "the aggregator has the reply" in "".join(other.logs()))
    assert one.server.kill() == -signal.SIGKILL
    assert one.rounds_done() <= done + 1, "of the round that waits for it nothing more can come"
    client.start()
    one.server.start()
    one.until(lambda: one.rounds_done() > done)
    assert other.kill(signal.SIGTERM) == 0
    assert one.server.kill() == -signal.SIGKILL
    one.server.start()
    other.start()
    one.finish()
    one.check()
