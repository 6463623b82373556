"""What its owner decides, at work: the client against a scripted aggregator."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fedkit import plugins
from fedkit.errors import ConfigError, RunFailed
from fedkit.federation import Verdict
from fedkit.messages import EncodedUpdate, Failure
from fedkit.participant import Participant
from fedkit.runfolder import load_tensors
from fedkit.secagg.identity import SigningKey
from fedkit.wire import decode
from fedkit_clients.edge import EdgeClient, Transport
from fedkit_clients.edge.answers import Unreachable
from fedkit_clients.edge.audit import Audit
from fedkit_clients.edge.device import NAP, Device
from fedkit_clients.edge.meter import DAY, Meter
from fedkit_clients.edge.modelout import ModelOut
from fedkit_clients.edge.policy import DevicePolicy
from fedkit_clients.edge.root import Root
from tests.clients.edge.overhttpx import OverHttpx

NAME, KEY = "ward 7", SigningKey(bytes(range(32)))
SERVER = SigningKey(bytes(range(1, 33))).public
pytestmark = pytest.mark.usefixtures("fast_disk")


def make_client(server: Any, folder: Path, device: Device, **more: Any) -> EdgeClient:
    transport = Transport(
        "http://aggregator:1",
        NAME,
        KEY,
        SERVER,
        way=OverHttpx(server.handle_request),
        clock=lambda: server.time,
        meter=device.meter,
        audit=device.audit,
    )
    return EdgeClient(transport, NAME, server.workload, Root(folder), device=device, **more)


def go(server: Any, folder: Path, device: Device) -> None:
    client = make_client(server, folder, device)
    with suppress(Unreachable):  # a script does not wait: it has no more to tell
        for _ in range(100):
            client.step()
            if server.done:
                break
    client.close()
    assert server.done


@pytest.mark.parametrize(
    ("policy", "rule"),
    [
        (DevicePolicy(secagg="honest_server"), "mode"),
        (DevicePolicy(strategies=("fedprox",)), "strategy"),
        (DevicePolicy(workloads=("digits",)), "workload"),
        (DevicePolicy(max_steps=3), "max_steps"),
    ],
)
def test_a_job_that_the_policy_forbids_is_refused_and_nothing_is_trained(
    tmp_path: Path, aggregator: Any, policy: DevicePolicy, rule: str
) -> None:
    told: list[bytes] = []
    aggregator.accept = lambda frame: told.append(frame)
    aggregator.workload.trainer = None  # nobody asks for it
    client = make_client(aggregator, tmp_path, Device(policy, "ward"))
    client.step()
    client.close()
    (reply,) = map(decode, told)
    assert (reply.code, reply.subject) == ("refused", rule)  # type: ignore[union-attr]


def test_outside_its_hours_a_device_is_silent(tmp_path: Path, aggregator: Any) -> None:
    class Enough(Exception):
        pass

    waits: list[float] = []
    noon = time.struct_time((2026, 3, 1, 12, 0, 0, 6, 60, 0))
    device = Device(DevicePolicy(hours="22:00-06:00"), local=lambda: noon)

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise Enough

    client = make_client(aggregator, tmp_path, device, sleep=sleep)
    with pytest.raises(Enough):
        client.run()
    assert (waits, aggregator.log) == ([NAP] * 3, [])
    device.local = lambda: time.struct_time((2026, 3, 1, 23, 0, 0, 6, 60, 0))
    assert not device.rests(sleep)
    client.close()


def test_when_the_bytes_of_the_month_are_used_up_it_asks_no_more(tmp_path: Path, aggregator: Any) -> None:
    meter = Meter(tmp_path / "traffic", 20_000, lambda: 1_790_000_000.0)
    client = make_client(aggregator, tmp_path / "spool", Device(meter=meter))

    asked = -1
    while asked < len(aggregator.log):  # what is short still fits when the next model does not
        asked = len(aggregator.log)
        with suppress(Unreachable):
            for _ in range(100):
                client.step()
    assert asked > 3
    assert meter.used <= 20_000 + 2_000, (
        "the answers to the last requests may be longer than they were thought"
    )
    with pytest.raises(Unreachable, match="of this month") as caught:
        client.step()
    assert caught.value.after > 0
    assert len(aggregator.log) == asked
    client.close()


def test_a_device_that_was_asked_enough_says_so_once_and_is_silent(
    tmp_path: Path, aggregator: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Enough(Exception):
        pass

    now, naps = [1_790_000_000.0], list[float]()

    def device() -> Device:
        return Device(meter=Meter(tmp_path / "traffic", clock=lambda: now[0], daily=2))

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        now[0] += seconds
        if len(naps) == 3:
            raise Enough

    refused: list[Failure] = []
    accept = aggregator.accept

    def hear(frame: bytes) -> None:
        if not isinstance(reply := decode(frame), Failure):
            accept(frame)
            return
        refused.append(reply)
        aggregator.results[reply.key], aggregator.settled[reply.key] = frame, Verdict.refused
        aggregator.begin()

    aggregator.accept = hear
    caplog.set_level("INFO", "fedkit.edge")
    for turn in (1, 2):  # a device that is started again has not forgotten
        naps.clear()
        client = make_client(aggregator, tmp_path / "spool", device(), sleep=sleep)
        with pytest.raises(Enough):
            client.run()
        asked = len(aggregator.log)
        client.close()
        assert (len(aggregator.results) - turn, naps) == (2, [NAP] * 3)
        assert [(one.code, one.subject) for one in refused] == [("refused", "max_tasks_per_day")] * turn
    assert "max_tasks_per_day = 2 is reached: the next task in" in caplog.text
    models = {aggregator._offer(n, task)["model"]["sha256"] for n, task in aggregator.tasks.items() if n > 2}
    came = {target.rpartition("/")[2] for _, target, _ in aggregator.log if target.startswith("/v1/blobs/")}
    assert not models & came, "the model of a task that is declined does not come"
    assert len(aggregator.log) == asked
    now[0] += DAY
    client._device.rests(sleep)
    assert "this device goes on" in caplog.text


def test_a_device_that_was_asked_enough_first_delivers_what_is_finished(
    tmp_path: Path, aggregator: Any
) -> None:
    """The link is away from when it trained until it has refused the next task."""

    class Enough(Exception):
        pass

    now, naps, got = [1_790_000_000.0], list[float](), list[object]()

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        now[0] += seconds
        if len(naps) == 5:
            aggregator.fault = lambda method, target, number: None
        if naps[-2:] == [NAP] * 2:
            raise Enough

    def hear(frame: bytes) -> None:
        got.append(decode(frame))
        aggregator.results[got[-1].key] = frame  # type: ignore[attr-defined]

    first = aggregator.tasks[1]
    aggregator.tasks[2] = replace(first, key=replace(first.key, round=1))
    aggregator.fault = lambda method, target, number: "away" if "/uploads" in target else None
    aggregator.accept = hear
    device = Device(meter=Meter(tmp_path / "traffic", clock=lambda: now[0], daily=1))
    client = make_client(aggregator, tmp_path / "spool", device, sleep=sleep)
    with pytest.raises(Enough):
        client.run()
    client.close()
    assert [type(one) for one in got] == [EncodedUpdate, Failure]


def test_a_task_that_a_crash_cut_short_is_one_of_the_day(
    tmp_path: Path, aggregator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    def client() -> EdgeClient:
        meter = Meter(tmp_path / "traffic", clock=lambda: 1_790_000_000.0, daily=1)
        return make_client(aggregator, tmp_path / "spool", Device(meter=meter))

    with monkeypatch.context() as patch:
        patch.setattr(Participant, "handle", killed)
        for _ in range(2):
            with closing(client()) as made, pytest.raises(Killed):
                made.step()
    with closing(client()) as made:
        made.step()
    assert len(aggregator.results) == 1, "it was trained"


def test_a_task_that_had_its_verdict_is_another_one_if_it_comes_again(
    tmp_path: Path, aggregator: Any
) -> None:
    device = Device(meter=Meter(clock=lambda: 1_790_000_000.0, daily=1))
    with closing(make_client(aggregator, tmp_path, device)) as client:
        joined = client._join()
        client.step()
        key = next(iter(aggregator.results))
        name = joined.spool.name(key) or ""
        assert (device.meter.full(name), device.meter.full("other")) == (0.0, DAY)
        joined.settle(key, Verdict.lost)
        assert device.meter.full(name) == DAY


@pytest.mark.parametrize("deadline", [1e308, -1e308])
def test_no_deadline_ends_a_device(tmp_path: Path, aggregator: Any, deadline: float) -> None:
    device = Device()
    device.meter.uplink = 1e6
    aggregator.tasks = {n: replace(task, deadline=deadline) for n, task in aggregator.tasks.items()}
    with closing(make_client(aggregator, tmp_path, device)) as client:
        client.step()
    assert len(aggregator.results) == 1


def test_the_newest_model_is_written(tmp_path: Path, aggregator: Any) -> None:
    out = tmp_path / "out" / "model.safetensors"
    go(aggregator, tmp_path / "spool", Device(model_out=ModelOut(out)))
    model, about = load_tensors(out)
    newest = aggregator.releases[-1]
    assert about == {"job": aggregator.job.id, "version": str(newest.version)}
    assert model.keys() == aggregator.workload.init(5).keys()
    for name, array in newest.model.items():
        np.testing.assert_array_equal(model[name], array)
    assert [path.name for path in out.parent.iterdir()] == ["model.safetensors"]


def test_the_model_of_a_run_that_is_over_is_written_once(tmp_path: Path, aggregator: Any) -> None:
    out = tmp_path / "model"
    go(aggregator, tmp_path / "spool", Device(model_out=ModelOut(out)))
    aggregator.end()
    for _ in range(2):  # the second process finds it there
        client = make_client(aggregator, tmp_path / "spool", device=Device(model_out=ModelOut(out)))
        for _ in range(2):
            with suppress(Unreachable):  # it answers before there is news
                client.step()
        client.close()
    model, about = load_tensors(out)
    assert about["version"] == str(aggregator.last["version"])
    for name, array in aggregator.releases[-1].model.items():
        np.testing.assert_array_equal(model[name], array)
    fetched = [target for _, target, _ in aggregator.log if target.endswith(aggregator.last["sha256"])]
    assert len(fetched) == 1
    assert not list((tmp_path / "spool").glob("*/parts/*"))


@pytest.mark.parametrize("change", [{"bytes": 7}, {"sha256": "0" * 64}])
def test_a_last_model_that_is_none_stops_nothing(
    tmp_path: Path, aggregator: Any, change: dict[str, Any]
) -> None:
    out = tmp_path / "model"
    go(aggregator, tmp_path / "spool", Device(model_out=ModelOut(out)))
    before = out.read_bytes()
    aggregator.end()
    aggregator.last |= change
    client = make_client(aggregator, tmp_path / "spool", device=Device(model_out=ModelOut(out)))
    with pytest.raises(Unreachable, match="before there is news"):
        client.step()
    client.close()
    assert out.read_bytes() == before


def test_an_older_model_does_not_take_the_place_of_a_newer_one(tmp_path: Path) -> None:
    out = ModelOut(tmp_path / "m")
    for version, job, there in ((3, "a", 3), (2, "a", 3), (3, "a", 3), (1, "b", 3), (2, "b", 2)):
        out.write(job, version, {"w": np.full(2, version, np.float32)})
        found, _ = load_tensors(tmp_path / "m")
        assert found["w"][0] == there, "another run's first one is not trained"


def test_a_place_for_the_model_that_is_none_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out, why in (("file/m", "give another --model-out"), (".", "is a folder")):
        with pytest.raises(ConfigError, match=why):
            ModelOut(tmp_path / out)


def test_the_owner_is_told_why_an_update_will_be_refused(
    tmp_path: Path, aggregator: Any, caplog: pytest.LogCaptureFixture
) -> None:
    go(aggregator, tmp_path / "light", Device())
    assert "aggregate.max_weight" not in caplog.text
    aggregator = type(aggregator)()
    aggregator.job = replace(aggregator.job, grid=replace(aggregator.job.grid, max_weight=1.0))
    aggregator.tasks.clear()
    aggregator.begin()
    client = make_client(aggregator, tmp_path / "heavy", Device())
    client.step()
    client.close()
    assert "above the job's maximum of 1: the aggregator refuses that" in caplog.text


def test_a_model_that_cannot_be_written_stops_nothing(
    tmp_path: Path, aggregator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise RunFailed("no room")

    monkeypatch.setattr("fedkit.runfolder.save_tensors", full)
    go(aggregator, tmp_path / "spool", Device(model_out=ModelOut(tmp_path / "model")))


def test_the_audit_has_every_request_and_every_message(tmp_path: Path, aggregator: Any) -> None:
    seen: list[httpx.Request] = []
    handle = aggregator.handle_request

    def watched(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        answer: httpx.Response = handle(request)
        return answer

    aggregator.handle_request = watched
    path = tmp_path / "audit"
    go(aggregator, tmp_path / "spool", Device(audit=Audit(path, lambda: 5.0)))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    requests = [line for line in lines if "request" in line]
    assert [line["request"] for line in requests] == [f"{r.method} {r.url.raw_path.decode()}" for r in seen]
    for line, request in zip(requests, seen, strict=True):
        assert line["headers"] == dict(request.headers)
        size = line.get("bytes", len(json.dumps(line.get("body", ""), separators=(",", ":"))))
        assert size == len(request.content) or not request.content
    messages = [line for line in lines if "message" in line]
    assert [line["bytes"] for line in messages] == [len(frame) for frame in aggregator.results.values()]
    assert {line["weight"] for line in messages} == {24.0}
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_noted_does_not_leave(tmp_path: Path, aggregator: Any) -> None:
    audit = Audit(tmp_path / "audit")
    client = make_client(aggregator, tmp_path / "spool", Device(audit=audit))
    (tmp_path / "audit").unlink()
    (tmp_path / "audit").mkdir()
    with pytest.raises(OSError, match="directory"):
        client.step()
    assert aggregator.log == []
    client.close()
    with pytest.raises(ConfigError, match="give another --audit"):
        Audit(tmp_path / "audit")


def test_an_audit_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedkit_clients.edge.audit.MOST", 1000)
    audit = Audit(tmp_path / "audit")
    for _ in range(100):
        audit.request("GET", "/v1/tasks", {}, b"")
    assert {path.name for path in tmp_path.iterdir()} == {"audit", "audit.1"}
    assert all(path.stat().st_size < 1200 for path in tmp_path.iterdir())


def test_a_slow_uplink_makes_a_shorter_update(
    tmp_path: Path, aggregator: Any, new_aggregator: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    for rate in (10_000_000.0, 1.0):
        server = new_aggregator()
        codec = plugins.codec("adaptive:below=1")
        server.job = replace(server.job, codec_up=codec, feedback=False)
        device = Device()
        device.meter.uplink = rate
        monkeypatch.setattr(device.meter, "uploaded", lambda size, seconds: None)
        server.tasks = {
            n: replace(t, key=replace(t.key, job=server.job.id), deadline=60.0)
            for n, t in server.tasks.items()
        }
        told: list[bytes] = []
        server.accept = told.append
        client = make_client(server, tmp_path / str(rate), device)
        client.step()
        client.close()
        sizes.append(len(decode(told[0]).payload))  # type: ignore[union-attr]
    assert sizes[1] < sizes[0] / 4
