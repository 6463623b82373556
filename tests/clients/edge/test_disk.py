"""Every file that a device writes: a full disk costs time only, and nobody but its owner can read it."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from fedkit.secagg.identity import SigningKey
from fedkit_clients.edge import EdgeClient, Transport
from fedkit_clients.edge.answers import Unreachable
from fedkit_clients.edge.audit import Audit
from fedkit_clients.edge.device import Device
from fedkit_clients.edge.meter import Meter
from fedkit_clients.edge.modelout import ModelOut
from fedkit_clients.edge.root import Root
from tests.clients.edge.overhttpx import OverHttpx

NAME, KEY = "ward 7", SigningKey(bytes(range(32)))
SERVER = SigningKey(bytes(range(1, 33))).public
KINDS = (
    "audit",
    "finished",
    "job",
    "memory",
    "memory.bin",
    "model",
    "models",
    "parts",
    "tasks",
    "traffic.json",
)
"""What a device without secure sessions writes; test_sessions and test_enrolment see to what others do."""
BY_UMASK = ("lock", "model")
"""Nothing is in the lock; the model is for other programs of the device."""
OPEN = builtins.open
pytestmark = pytest.mark.usefixtures("fast_disk")


def kind_of(path: Path) -> str:
    """By what a file is called, or where it is."""
    known = ("tasks", "held", "finished", "memory", "models", "parts")
    return path.parent.name if path.parent.name in known else path.name.removesuffix(".tmp")


class Filling:
    """A file on a disk that is full after half of what is written."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Filling:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        if not data or self._disk.hits:
            return int(self._file.write(data))
        self._disk.hits += 1
        self._file.write(data[: len(data) // 2])
        self._file.flush()
        raise OSError(errno.ENOSPC, "No space left on device")

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(parts))


class Disk:
    """Notes what is opened to be written in `folder`; the first file of one kind fills the disk."""

    def __init__(self, folder: Path, full: str = "") -> None:
        self._folder, self._full = folder, full
        self.seen, self.hits = set[str](), 0

    def __call__(self, file: Any, mode: str = "r", *given: Any, **more: Any) -> Any:
        made = OPEN(file, mode, *given, **more)
        if isinstance(file, int) or not set(mode) & set("wax+") or self._folder not in Path(file).parents:
            return made
        self.seen.add(kind := kind_of(Path(file)))
        return Filling(made, self) if kind == self._full else made


@contextmanager
def disk(folder: Path, full: str = "") -> Iterator[Disk]:
    made = Disk(folder, full)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", made)
        patch.setattr(builtins, "open", made)
        yield made


def go(server: Any, folder: Path) -> None:
    """Be a device with all that its owner may want, until the run is done."""
    server.inline, root = False, Root(folder)
    meter = Meter(folder / "traffic.json", clock=lambda: server.time, daily=100)
    device = Device(meter=meter, audit=Audit(folder / "audit"), model_out=ModelOut(folder / "model"))
    transport = Transport(
        *("http://aggregator:1", NAME, KEY, SERVER),
        way=OverHttpx(server.handle_request),
        clock=lambda: server.time,
        meter=meter,
        audit=device.audit,
    )
    client = EdgeClient(transport, NAME, server.workload, root, device=device)
    try:
        for _ in range(100):
            with suppress(Unreachable, OSError):
                client.step()
            if server.done:
                return
        raise AssertionError(f"not done: {server.log[-20:]}")
    finally:
        client.close()


def test_the_kinds_of_files_are_those_that_are_tested(tmp_path: Path, aggregator: Any) -> None:
    with disk(tmp_path / "device") as noted:
        go(aggregator, tmp_path / "device")
    assert noted.seen - {"lock"} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_is_full_at_any_file_costs_time_only(
    tmp_path: Path, new_aggregator: Callable[..., Any], kind: str
) -> None:
    expected, server = new_aggregator().direct(), new_aggregator()
    with disk(tmp_path / "device", kind) as noted:
        go(server, tmp_path / "device")
    assert noted.hits == 1
    assert list(server.results.values()) == expected
    for line in (tmp_path / "device" / "audit").read_text().splitlines():
        assert json.loads(line), "whole lines only"
    assert not list((tmp_path / "device").rglob("*.tmp"))


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_its_owner_alone_may_read_what_a_device_keeps(tmp_path: Path, aggregator: Any, mask: int) -> None:
    folder, seen = tmp_path / "device", set[str]()

    def look(method: str, target: str, number: int) -> str | None:
        for path in folder.rglob("*"):
            mode, name = stat.S_IMODE(path.stat().st_mode), kind_of(path)
            seen.add(name)
            assert path.name in BY_UMASK or mode == (0o700 if path.is_dir() else 0o600), f"{path}: {mode:o}"
        blobs = [t for _, t, _ in aggregator.log if t.startswith("/v1/blobs/")]
        return "cut" if target in blobs and blobs.count(target) < 2 else None

    aggregator.fault = look
    before = os.umask(mask)
    try:
        go(aggregator, folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert set(KINDS) <= seen
