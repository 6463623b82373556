"""The directory of a client: one process, one run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from fedkit import wire
from fedkit.errors import ConfigError
from fedkit.messages import Key, Task
from fedkit_clients.edge.root import Root

pytestmark = pytest.mark.usefixtures("fast_disk")
OLD, NEW, JOB = "a" * 16, "b" * 16, "0" * 16


def test_another_run_takes_the_place_of_the_old_one_also_of_the_same_job(tmp_path: Path) -> None:
    root, key = Root(tmp_path), Key(JOB, 0, "train", "", 0, "c")
    frame = wire.encode(Task(key, 1, {}, {}, {}, 5, 1.0, 9.0))
    root.begin(OLD, JOB, b"the job").take(hashlib.sha256(frame).hexdigest(), "ab" * 32, frame)
    (tmp_path / "identity.pem").write_text("key")
    assert root.begin(OLD, JOB, b"the job").next_task() is not None
    spool = root.begin(NEW, JOB, b"the job")
    assert root.job() == (NEW, b"the job")
    assert spool.next_task() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{JOB}-{NEW}", "identity.pem", "job", "lock"]
    root.close()


@pytest.mark.parametrize("data", [b"", b"\n", b"{}", b"xyz\n{}", b"\xff" * 20 + b"\n{}", b"a" * 17 + b"\n{}"])
def test_a_job_without_a_run_is_none(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "job").write_bytes(data)
    root = Root(tmp_path)
    assert root.job() is None
    root.close()


def test_a_directory_that_cannot_be_is_an_error_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be used"):
        Root(tmp_path / "file" / "spool")
