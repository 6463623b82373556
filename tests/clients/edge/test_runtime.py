"""The edge client against a scripted aggregator: whatever goes wrong, the replies are those of no trouble."""

from __future__ import annotations

import errno
import itertools
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest

from fedkit.clientstore import MemoryStore
from fedkit.errors import ConfigError
from fedkit.federation import Verdict
from fedkit.secagg.identity import SigningKey
from fedkit.seeds import derive
from fedkit_clients.edge import EdgeClient, Transport, models, spool
from fedkit_clients.edge.answers import Refused, Unfit, Unreachable
from fedkit_clients.edge.root import Root
from tests.clients.edge.overhttpx import OverHttpx

NAME = "ward 7"
KEY = SigningKey(bytes(range(32)))
SERVER = SigningKey(bytes(range(1, 33))).public
STEPS = 200
pytestmark = pytest.mark.usefixtures("fast_disk")


def make_client(server: Any, folder: Path, skew: float = 0.0) -> EdgeClient:
    clock = lambda: server.time + skew  # noqa: E731
    way = OverHttpx(server.handle_request)
    transport = Transport("http://aggregator:1", NAME, KEY, SERVER, way=way, clock=clock)
    return EdgeClient(transport, NAME, server.workload, Root(folder), sleep=lambda seconds: None)


def go(server: Any, folder: Path, steps: int = STEPS, skew: float = 0.0) -> int:
    """Step until the run is done; how many steps failed."""
    client, failed = make_client(server, folder, skew), 0
    try:
        for _ in range(steps):
            try:
                client.step()
            except (Unreachable, OSError):
                failed += not server.done  # a script does not wait: it has no more to tell
            if server.done:
                return failed
        raise AssertionError(f"not done after {steps} steps: {server.log[-20:]}")
    finally:
        client.close()


@pytest.fixture(
    params=[
        ("none", "last"),
        ("tensors:below=1|sign", "last"),
        ("tensors:below=1|rotate|ecsq:delta=0.5", "first"),
    ]
)
def way(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The codec down, and where its frames lead from."""
    given: tuple[str, str] = request.param
    return given


@pytest.fixture
def expected(way: tuple[str, str], new_aggregator: Callable[..., Any]) -> list[bytes]:
    frames: list[bytes] = new_aggregator(*way).direct()
    return frames


def test_replies_are_those_of_a_participant_without_a_network(
    tmp_path: Path, way: tuple[str, str], new_aggregator: Callable[..., Any], expected: list[bytes]
) -> None:
    server = new_aggregator(*way)
    assert go(server, tmp_path) == 0
    assert list(server.results.values()) == expected
    sizes = [size for method, target, size in server.log if target.startswith("/v1/uploads/")]
    assert sum(sizes) == sum(map(len, expected))


def test_the_shortest_way_to_a_model_is_taken(
    tmp_path: Path, way: tuple[str, str], new_aggregator: Callable[..., Any]
) -> None:
    server = new_aggregator(*way)
    go(server, tmp_path)
    whole = [server.blobs[t.split("/")[-1]] for _, t, _ in server.log if t.startswith("/v1/blobs/")]
    snapshots = [data for data in whole if len(data) == server.job.layout.nbytes]
    assert len(snapshots) == (len(server.tasks) - 1 if way[0] == "none" else 0)
    held = [
        target.partition("held=")[2].partition("&")[0] for _, target, _ in server.log if "held=" in target
    ]
    assert sorted({int(one) for one in held}) == ([2, 3, 4, 5] if way[1] == "first" else [])


def test_the_log_counts_rounds_from_1(
    tmp_path: Path, aggregator: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fedkit.edge"):
        go(aggregator, tmp_path)
    said = [text for text in caplog.messages if text.startswith("round ")]
    for step in ("train done", "the aggregator has the reply"):
        assert [text for text in said if text.endswith(step)] == [f"round {n}: {step}" for n in range(1, 6)]
    assert {int(text.split()[1].rstrip(":")) for text in said} == {1, 2, 3, 4, 5}


class PowerCut(BaseException):
    """The process is gone: nothing that would run after it may be believed."""


class Disk:
    """Lets so many steps of the disk through and then none, or some later again."""

    def __init__(self, patch: pytest.MonkeyPatch, allowed: int, full: int = 0) -> None:
        self.done, self._allowed, self._full = 0, allowed, full
        for owner, name in (
            *((spool, n) for n in ("write_checked", "remove", "sync")),
            *((models, n) for n in ("write_file", "remove", "sync")),
            (MemoryStore, "put"),
        ):
            patch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **more: Any) -> Any:
            self.done += 1
            if self._full and self._allowed < self.done <= self._allowed + self._full:
                raise OSError(errno.ENOSPC, "No space left on device")
            if self.done > self._allowed and not self._full:
                raise PowerCut
            return step(*given, **more)

        return counted


def test_killed_between_any_two_writes_it_goes_on(
    tmp_path: Path, way: tuple[str, str], new_aggregator: Callable[..., Any], expected: list[bytes]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, 10**9)
        go(new_aggregator(*way), tmp_path / "counted")
    assert disk.done > 50
    for allowed in range(0, disk.done, 1 if way[1] == "first" else 4):
        server, folder = new_aggregator(*way), tmp_path / str(allowed)
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, allowed)
            with pytest.raises(PowerCut):
                go(server, folder)
        go(server, folder)
        assert list(server.results.values()) == expected, f"killed at step {allowed} of the disk"


@pytest.mark.parametrize("full", [1, 4])
def test_a_disk_that_is_full_for_a_while_costs_time_only(
    tmp_path: Path, new_aggregator: Callable[..., Any], full: int
) -> None:
    way = ("tensors:below=1|sign", "last")
    expected = new_aggregator(*way).direct()
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, 10**9)
        go(new_aggregator(*way), tmp_path / "counted")
    for allowed in range(3 - full // 2, disk.done, 3):
        server = new_aggregator(*way)
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, allowed, full)
            assert go(server, tmp_path / str(allowed)) > 0
        assert list(server.results.values()) == expected, f"full at step {allowed} of the disk"


def test_killed_again_and_again_it_arrives(
    tmp_path: Path, way: tuple[str, str], new_aggregator: Callable[..., Any], expected: list[bytes]
) -> None:
    server, lives = new_aggregator(*way), 0
    while not server.done:
        lives += 1
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, 23)
            try:
                go(server, tmp_path)
            except PowerCut:
                continue
    assert lives > 5
    assert list(server.results.values()) == expected


@pytest.mark.parametrize("fault", ["away", "cut upload", "502", "503", "lost", "cut"])
@pytest.mark.parametrize("seed", [0, 1])
def test_requests_that_fail_are_made_again(
    tmp_path: Path,
    way: tuple[str, str],
    new_aggregator: Callable[..., Any],
    expected: list[bytes],
    fault: str,
    seed: int,
) -> None:
    server = new_aggregator(*way)
    server.fault = lambda method, target, number: fault if derive(seed, "fault", number) % 5 < 2 else None
    assert go(server, tmp_path) > 3
    assert list(server.results.values()) == expected


def test_a_download_goes_on_where_it_was_cut_also_in_another_process(tmp_path: Path, aggregator: Any) -> None:
    def fault(method: str, target: str, number: int) -> str | None:
        blobs = [t for _, t, _ in aggregator.log if t.startswith("/v1/blobs/")]
        return "cut" if target.startswith("/v1/blobs/") and blobs.count(target) < 3 else None

    aggregator.fault, aggregator.inline = fault, False
    asked: list[tuple[str, str | None]] = []
    blob = aggregator._blob

    def watched(digest: str, wanted: str | None) -> httpx.Response:
        asked.append((digest, wanted))
        answer: httpx.Response = blob(digest, wanted)
        return answer

    aggregator._blob = watched
    for _ in range(2):
        client = make_client(aggregator, tmp_path)
        with pytest.raises(Unreachable):
            client.step()
        client.close()
    frame = asked[0][0]
    half = len(aggregator.blobs[frame]) // 2
    assert asked == [(frame, None), (frame, f"bytes={half}-")]
    go(aggregator, tmp_path)


def test_an_upload_goes_on_where_it_was_cut(tmp_path: Path, aggregator: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("fedkit_clients.edge.transport.FIRST", 100)
    monkeypatch.setattr("fedkit_clients.edge.transport.PIECE", 100)
    monkeypatch.setattr("fedkit_clients.edge.transport.WHOLE", 100)
    monkeypatch.setattr("fedkit_clients.edge.transport.SMALLEST", 10)
    patches = 0

    def fault(method: str, target: str, number: int) -> str | None:
        nonlocal patches
        patches += method == "PATCH"
        return "cut upload" if method == "PATCH" and patches % 3 == 2 else None

    aggregator.fault = fault
    assert go(aggregator, tmp_path) > len(aggregator.tasks)
    kept = sum(size for method, _, size in aggregator.log if method == "PATCH")
    whole = sum(map(len, aggregator.results.values()))
    assert whole < kept < 2 * whole


class Over(BaseException):
    """The test has seen enough."""


def waits(server: Any, folder: Path, fault: Callable[..., Any]) -> list[float]:
    """How long a client waits after each failure, under a fault, until it is done or has failed 12 times."""
    client, found = make_client(server, folder), list[float]()

    def sleep(seconds: float) -> None:
        found.append(seconds)
        if len(found) == 12 or server.done:
            raise Over

    client._sleep, server.fault = sleep, fault
    with pytest.raises(Over):
        client.run()
    client.close()
    return found


def test_a_link_that_breaks_often_is_tried_again_soon(tmp_path: Path, aggregator: Any) -> None:
    """Bytes that arrive are a success, though the connection breaks after them."""
    broken = waits(
        aggregator,
        tmp_path / "a",
        lambda _, path, number: "cut" if "/blobs/" in path and number % 2 else None,
    )
    assert len(broken) >= 4
    assert max(broken) < 0.5


def test_a_link_that_only_damages_is_tried_ever_more_seldom(tmp_path: Path, aggregator: Any) -> None:
    real = aggregator._answer

    def damaged(method: str, target: str, request: httpx.Request) -> httpx.Response:
        answer: httpx.Response = real(method, target, request)
        if not target.startswith("/v1/blobs/"):
            return answer
        return httpx.Response(answer.status_code, content=bytes(len(answer.content)))

    aggregator._answer = damaged
    assert max(waits(aggregator, tmp_path / "a", lambda *_: None)) > 10


def test_pieces_get_smaller_until_the_link_bears_them(
    tmp_path: Path, aggregator: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("fedkit_clients.edge.transport.SMALLEST", 10)
    aggregator.fault = lambda method, target, number: (
        "cut upload" if method in ("PATCH", "PUT") and aggregator.log[-1][2] > 60 else None
    )
    go(aggregator, tmp_path)
    assert max(size for method, _, size in aggregator.log[-5:] if method == "PATCH") <= 120


def test_tasks_and_verdicts_that_come_again_change_nothing(
    tmp_path: Path, way: tuple[str, str], new_aggregator: Callable[..., Any], expected: list[bytes]
) -> None:
    server = new_aggregator(*way)
    server.offers_all = server.tells_all = True
    for _ in range(3):  # also when another process is offered them
        client = make_client(server, tmp_path)
        for _ in range(5):
            with suppress(Unreachable):  # whoever says the same for ever is asked more seldom
                client.step()
        client.close()
    assert list(server.results.values()) == expected
    puts = [method for method, _, _ in server.log if method == "PUT"]
    assert len(puts) == len(expected)


@pytest.mark.parametrize("skew", [-86400.0, 86400.0, 1e9])
def test_a_clock_that_is_wrong_by_a_day_costs_one_request(
    tmp_path: Path, aggregator: Any, skew: float
) -> None:
    assert go(aggregator, tmp_path, skew=skew) == 0
    assert [target for _, target, _ in aggregator.log].count("/v1/job") == 2


def test_waits_are_as_long_as_the_aggregator_wants_and_training_goes_on(
    tmp_path: Path, aggregator: Any
) -> None:
    client, waits = make_client(aggregator, tmp_path), list[float]()

    class Enough(Exception):
        pass

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise Enough

    client._sleep = sleep
    posts = 0

    def fault(method: str, target: str, number: int) -> str | None:
        nonlocal posts
        posts += target.startswith("/v1/uploads/")
        return "503" if posts else None

    aggregator.fault, aggregator.retry_after = fault, "77"
    with pytest.raises(Enough):
        client.run()
    assert all(77 <= wait < 77 + 4 for wait in waits)
    assert posts == 1  # while it is draining, nothing else is asked
    aggregator.fault = lambda method, target, number: None
    client.close()
    go(aggregator, tmp_path)


def test_without_a_link_what_lies_in_the_spool_is_trained(tmp_path: Path, aggregator: Any) -> None:
    client = make_client(aggregator, tmp_path)
    client._join().train = lambda: None  # type: ignore[method-assign]
    client.step()
    client.close()
    folder = tmp_path / aggregator.folder
    assert len(list((folder / "tasks").iterdir())) == 1
    aggregator.fault = lambda method, target, number: "away"
    again = make_client(aggregator, tmp_path)
    with pytest.raises(Unreachable):
        again.step()
    again.close()
    assert not list((folder / "tasks").iterdir())
    assert len(list((folder / "finished").iterdir())) == 1


def test_no_more_tasks_are_taken_than_there_is_room_for(
    tmp_path: Path, aggregator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "WAITING", 2)
    for number in range(1, 5):
        task = aggregator.tasks[1]
        aggregator.tasks[number + 1] = replace(task, key=replace(task.key, round=number), seed=number)
    aggregator.fault = lambda method, target, number: "503" if target.startswith("/v1/uploads") else None
    client, folder = make_client(aggregator, tmp_path), tmp_path / aggregator.folder
    counts = []
    client._join().train = lambda: None  # type: ignore[method-assign]
    client.step()
    counts.append([len(list((folder / stage).iterdir())) for stage in ("tasks", "finished")])
    client._joined = None
    for _ in range(6):
        with pytest.raises(Unreachable):
            client.step()
        counts.append([len(list((folder / stage).iterdir())) for stage in ("tasks", "finished")])
    client.close()
    assert (counts[0], counts[-1]) == ([2, 0], [0, 2])
    assert max(map(sum, counts)) == 2
    aggregator.fault = lambda method, target, number: None
    client = make_client(aggregator, tmp_path)
    for _ in range(4):
        client.step()
    client.close()
    assert len(aggregator.results) == 5


def settling(aggregator: Any, patch: pytest.MonkeyPatch, answers: int) -> None:
    """Have it offer one more task with each of so many answers, and say that the one before is lost."""
    first, news, said = aggregator.tasks[1], aggregator._news, itertools.count()

    def more() -> httpx.Response:
        if (number := next(said)) < answers:
            aggregator.settled = {task.key: Verdict.lost for task in aggregator.tasks.values()}
            aggregator.tasks = {number + 1: replace(first, key=replace(first.key, round=number), seed=number)}
        answer: httpx.Response = news()
        return answer

    patch.setattr(aggregator, "_news", more)


def test_an_aggregator_that_never_stops_offering_does_not_keep_a_device_from_training(
    tmp_path: Path, aggregator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settling(aggregator, monkeypatch, 50)
    client, trained = make_client(aggregator, tmp_path), list[int]()
    joined = client._join()
    joined.train = lambda: trained.append(len(aggregator.log))  # type: ignore[method-assign]
    for _ in range(3):
        client.step()
    client.close()
    assert len(trained) == 3
    assert trained[-1] < 20


def test_verdicts_that_never_come_do_not_fill_the_disk(
    tmp_path: Path, aggregator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "WAITING", 3)
    first, accept = aggregator.tasks[1], aggregator.accept

    def silent(frame: bytes) -> Verdict:
        verdict: Verdict = accept(frame)
        aggregator.settled = {}
        return verdict

    aggregator.accept = silent
    aggregator.tasks = {n + 1: replace(first, key=replace(first.key, round=n)) for n in range(5)}
    aggregator.begin = lambda: None
    client = make_client(aggregator, tmp_path)
    for _ in range(7):
        with suppress(Unreachable):
            client.step()
    assert client._joined is not None
    pending = client._joined.participant.pending()
    client.close()
    assert len(aggregator.results) == 5
    assert len(list((tmp_path / aggregator.folder / "uploaded").iterdir())) == len(pending) == 3


def test_a_task_of_another_job_does_not_stay(
    tmp_path: Path, aggregator: Any, new_aggregator: Callable[..., Any]
) -> None:
    """One that the aggregator, whose run is the same, offers by mistake."""
    good = aggregator.tasks[1]
    aggregator.tasks[99] = replace(good, key=replace(good.key, job="0" * len(good.key.job)))
    client = make_client(aggregator, tmp_path)
    with pytest.raises(Unreachable, match="still"):
        client.step()
    del aggregator.tasks[99]
    for _ in range(8):
        with suppress(Unreachable):
            client.step()
    client.close()
    assert list(aggregator.results.values()) == new_aggregator().direct()


def test_another_job_is_joined_when_its_tasks_come(
    tmp_path: Path, new_aggregator: Callable[..., Any]
) -> None:
    old, new = new_aggregator(), new_aggregator("tensors:below=1|sign", "last")
    go(old, tmp_path)
    assert old.job.id != new.job.id
    go(new, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["job", "lock", new.folder])


def test_what_a_device_keeps_does_not_grow(tmp_path: Path, aggregator: Any) -> None:
    go(aggregator, tmp_path)
    folder = tmp_path / aggregator.folder
    left = {name: len(list((folder / name).iterdir())) for name in ("tasks", "finished", "uploaded", "parts")}
    assert left == {"tasks": 0, "finished": 0, "uploaded": 0, "parts": 0}
    assert len(list((folder / "models").iterdir())) <= 3
    assert len(list((folder / "memory").iterdir())) <= 3


def test_a_spool_is_for_one_process(tmp_path: Path, aggregator: Any) -> None:
    client = make_client(aggregator, tmp_path)
    with pytest.raises(ConfigError, match="in use"):
        make_client(aggregator, tmp_path)
    client.close()


def test_a_workload_that_does_not_fit_is_refused(tmp_path: Path, aggregator: Any) -> None:
    class Small(type(aggregator.workload)):  # type: ignore[misc]
        def init(self, seed: int) -> Any:
            return {name: array[:1] for name, array in super().init(seed).items()}

    aggregator.workload.__class__ = Small
    with pytest.raises(
        ConfigError, match=r"'weight' \[64, 10\] float32 there, 'weight' \[1, 10\] float32 here"
    ):
        go(aggregator, tmp_path)


def test_a_next_run_that_is_not_for_the_device_is_waited_out(
    tmp_path: Path, aggregator: Any, new_aggregator: Callable[..., Any]
) -> None:
    client = make_client(aggregator, tmp_path)
    client.step()
    told, aggregator.run = aggregator.run, "f" * 16
    fits, other = client._workload, cast(Any, _Other())
    client._workload = other
    with pytest.raises(Unfit, match="other tensors"):
        client.step()
    kept = client._root.job()
    assert kept is not None
    assert kept[0] == told, "a restart waits as well"
    client.close()
    client = make_client(aggregator, tmp_path)
    client._workload = fits
    client.step()
    kept = client._root.job()
    assert kept is not None
    assert kept[0] == "f" * 16
    client.close()


class _Other:
    """A workload whose model is another."""

    def clients(self) -> list[str]:
        return [NAME]

    def init(self, seed: int) -> Any:
        return {"weight": np.zeros((64, 10), np.float32)}


def test_a_client_that_is_not_known_waits(tmp_path: Path, aggregator: Any) -> None:
    aggregator._guarded = lambda request, method, target: httpx.Response(
        403, json={"error": "client", "message": "not in the roster"}
    )
    client = make_client(aggregator, tmp_path)
    with pytest.raises(Refused, match="not in the roster") as caught:
        client.step()
    assert caught.value.word == "client"
    client.close()


def test_a_device_that_is_too_old_keeps_what_is_finished_and_delivers_it_once_it_is_not(
    tmp_path: Path, aggregator: Any
) -> None:
    client, guarded = make_client(aggregator, tmp_path), aggregator._guarded

    def too_old(request: httpx.Request, method: str, target: str) -> httpx.Response:
        """Upgraded while the device trained."""
        if not target.startswith("/v1/uploads"):
            return cast("httpx.Response", guarded(request, method, target))
        told = {"error": "version", "message": "the device speaks version '1', the aggregator 2 and 3"}
        return httpx.Response(400, json=told)

    aggregator._guarded = too_old
    for _ in range(3):
        with pytest.raises(Refused, match="version '1', the aggregator 2 and 3"):
            client.step()
        assert list((tmp_path / aggregator.folder / "finished").iterdir())
    client.close()
    aggregator._guarded = guarded
    assert go(aggregator, tmp_path) == 0
    assert list(aggregator.results.values()) == aggregator.direct()


def test_an_upload_that_is_not_wanted_is_forgotten(tmp_path: Path, aggregator: Any) -> None:
    put = aggregator._put
    aggregator._put = lambda *_: httpx.Response(409, json={"error": "other", "message": "another stands"})
    client = make_client(aggregator, tmp_path)
    client.step()
    assert not list((tmp_path / aggregator.folder / "finished").iterdir())
    aggregator._put = put
    client.close()
    assert not aggregator.results


def test_a_model_that_is_damaged_comes_once_more(
    tmp_path: Path, aggregator: Any, new_aggregator: Callable[..., Any]
) -> None:
    client = make_client(aggregator, tmp_path)
    joined = client._join()
    bring = joined.models.bring

    def forgetful(offer: Any) -> None:
        bring(offer)
        for path in (tmp_path / aggregator.folder / "models").iterdir():
            path.write_bytes(path.read_bytes()[:-1])
        joined.models.bring = bring  # type: ignore[method-assign]

    joined.models.bring = forgetful  # type: ignore[method-assign]
    with pytest.raises(Unreachable, match="the task is to come once more"):
        client.step()
    client.close()
    go(aggregator, tmp_path)
    assert list(aggregator.results.values()) == new_aggregator().direct()


def test_another_run_of_the_same_job_gets_nothing_of_the_old_one(
    tmp_path: Path, new_aggregator: Callable[..., Any]
) -> None:
    old, new = new_aggregator(), new_aggregator()
    old.fault = lambda method, target, number: "away" if target.startswith("/v1/uploads") else None
    client = make_client(old, tmp_path)
    with pytest.raises(Unreachable):
        client.step()
    client.close()
    assert list((tmp_path / old.folder / "finished").iterdir())
    new.run = "f" * 16
    assert go(new, tmp_path) == 0
    assert new.folder != old.folder
    assert not (tmp_path / old.folder).exists()
    assert list(new.results.values()) == new_aggregator().direct()


def test_a_run_that_is_another_and_is_not(tmp_path: Path, aggregator: Any) -> None:
    client = make_client(aggregator, tmp_path)
    client._join()
    known, aggregator.run = aggregator.run, "f" * 16
    client._transport.job = lambda: (known, b"")  # type: ignore[method-assign]
    with pytest.raises(Unreachable, match="still"):
        client.step()
    client.close()
