"""What fedkit uses of Flower, tried one by one: this fails loudly when Flower changes any of it."""

from __future__ import annotations

import os
import subprocess
from collections import OrderedDict
from inspect import getsource, signature
from typing import Any

import pytest

from fedkit.errors import WireError
from fedkit_clients.flower.fleet import Reply
from fedkit_clients.flower.programs import QUIET, program

flwr = pytest.importorskip("flwr.app")
serverapp = pytest.importorskip("flwr.serverapp")
clientapp = pytest.importorskip("flwr.clientapp")
pytestmark = pytest.mark.usefixtures("in_a_run")


@pytest.fixture
def grid_module() -> Any:
    """Imported where Flower is installed only."""
    from fedkit_clients.flower import grid

    return grid


class FakeGrid:
    """Flower's Grid with one node, which answers with what it is given."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.pushed = answer, list[Any]()

    def get_node_ids(self) -> Any:
        return iter([12])

    def push_messages(self, messages: Any) -> Any:
        self.pushed += messages
        return ["id"]

    def pull_messages(self, ids: Any) -> Any:
        (sent,) = self.pushed
        sent.metadata.__dict__["_message_id"] = "id"
        return [flwr.Message(self.answer, reply_to=sent)]


def test_a_blob_goes_there_and_back(grid_module: Any) -> None:
    grid = FakeGrid(grid_module.content(b"back"))
    fleet = grid_module.GridFleet(grid)
    assert fleet.nodes() == [12]
    assert fleet.push(12, "train", b"there", 30.0) == "id"
    (sent,) = grid.pushed
    assert (sent.metadata.dst_node_id, sent.metadata.message_type, sent.metadata.ttl) == (12, "train", 30.0)
    assert grid_module.blob_of(sent.content) == b"there"
    assert fleet.pull(["id"]) == [Reply("id", b"back")]


@pytest.mark.parametrize(
    ("code", "reason", "told"),
    [
        (
            2,
            "<class 'ZeroDivisionError'>:<'my patient's name'>",
            ("CLIENT_APP_RAISED_EXCEPTION", "ZeroDivisionError"),
        ),
        (2, "<class 'a.b.NodeError'>:<'ConfigError'>", ("CLIENT_APP_RAISED_EXCEPTION", "ConfigError")),
        (5, "Node went away", ("NODE_UNAVAILABLE", "")),
        (99, None, ("CODE_99", "")),
    ],
)
def test_of_an_error_code_and_class_are_told(
    grid_module: Any, code: int, reason: str | None, told: tuple[str, str]
) -> None:
    fleet = grid_module.GridFleet(FakeGrid(flwr.Error(code, reason)))
    fleet.push(12, "train", b"", 30.0)
    assert fleet.pull(["id"]) == [Reply("id", b"", told)]


def test_a_message_of_another_app_is_no_parcel(grid_module: Any) -> None:
    other = flwr.RecordDict({"config": flwr.ConfigRecord({"a": 1})})
    fleet = grid_module.GridFleet(FakeGrid(other))
    fleet.push(12, "train", b"", 30.0)
    assert fleet.pull(["id"]) == [Reply("id", b"", ("NO_PARCEL", ""))]
    with pytest.raises(WireError, match="another app"):
        grid_module.blob_of(flwr.RecordDict())


def test_bytes_that_flower_cannot_read_are_one_nodes_failure(
    grid_module: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the head of what a node sends is checked before Flower makes objects of it."""
    record = grid_module.record(b"back")
    array = record["fedkit"]
    bad = array.deflate().replace(b'"dtype"', b'"\xfftype"')

    class Grid:
        def pull_messages(self, ids: Any) -> Any:
            made = []
            for one in ids:
                if one == "bad":
                    type(array).inflate(bad, array.children)
                sent = flwr.Message(grid_module.content(b""), 12, "train", ttl=30.0)
                sent.metadata.__dict__["_message_id"] = one
                made.append(flwr.Message(grid_module.content(one.encode()), reply_to=sent))
            return made

    fleet = grid_module.GridFleet(Grid())
    assert fleet.pull(["a", "bad", "b"]) == [
        Reply("a", b"a"),
        Reply("bad", b"", ("UNREADABLE", "UnicodeDecodeError")),
        Reply("b", b"b"),
    ]
    assert "cannot read a reply" in caplog.text


def test_flower_has_the_error_codes_that_we_know(grid_module: Any) -> None:
    codes = pytest.importorskip("flwr.common.constant").ErrorCode
    theirs = {value: name for name, value in vars(codes).items() if isinstance(value, int)}
    assert theirs == grid_module.CODES


def test_flower_passes_our_bytes_on_as_they_are(grid_module: Any) -> None:
    blob = bytes(range(256)) * 30_000  # more than one of Flower's chunks
    record = grid_module.record(blob)
    array = record["fedkit"]
    children = {name: type(one).inflate(one.deflate()) for name, one in array.children.items()}
    assert len(children) > 1
    again = type(array).inflate(array.deflate(), children)
    assert (again.dtype, again.shape, again.stype, again.data) == ("uint8", (len(blob),), "fedkit/1", blob)


def test_what_we_call_is_there(grid_module: Any) -> None:
    assert {"get_node_ids", "push_messages", "pull_messages"} <= set(dir(serverapp.Grid))
    for method, names in (
        ("push_messages", ["self", "messages"]),
        ("pull_messages", ["self", "message_ids"]),
    ):
        assert list(signature(getattr(serverapp.Grid, method)).parameters) == names
    fields = {"node_config", "run_config", "state", "run_id"}
    assert fields <= set(flwr.Context.__annotations__)
    assert flwr.ArrayRecord(OrderedDict()) == flwr.ArrayRecord()


def test_an_app_of_ours_is_called_by_type(grid_module: Any) -> None:
    app = clientapp.ClientApp()
    app.query("hello")(lambda message, context: flwr.Message(grid_module.content(b"hi"), reply_to=message))
    app.train()(lambda message, context: flwr.Message(grid_module.content(b"done"), reply_to=message))
    context = flwr.Context(1, 12, {}, flwr.RecordDict(), {})
    said = []
    for kind in ("query.hello", "train"):
        message = flwr.Message(grid_module.content(b""), 12, kind, ttl=30.0)
        said.append(grid_module.blob_of(app(message, context).content))
    assert said == [b"hi", b"done"]


def test_what_our_client_app_raises_tells_the_server_no_text(
    grid_module: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from fedkit_clients.flower.clientapp import hello

    message = flwr.Message(grid_module.content(b""), 12, "query.hello", ttl=30.0)
    context = flwr.Context(1, 12, {"clients": "nobody"}, flwr.RecordDict(), {"scenario": "of-a-patient"})
    with pytest.raises(grid_module.NodeError) as caught:
        hello(message, context)
    assert str(caught.value) == "ConfigError"
    assert "of-a-patient" in caplog.text


def test_a_node_with_another_flower_takes_no_part(
    grid_module: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedkit_clients.flower.clientapp import hello

    monkeypatch.setattr("fedkit_clients.flower.guard.metadata.version", lambda _: "1.44.0")
    message = flwr.Message(grid_module.content(b""), 12, "query.hello", ttl=30.0)
    with pytest.raises(grid_module.NodeError, match="ConfigError"):
        hello(message, flwr.Context(1, 12, {"clients": "c000"}, flwr.RecordDict(), {"scenario": "digits"}))
    assert "Flower 1.44.0 is installed" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("flower-superlink", ["--insecure", "--host", "--port"]),
        ("flower-supernode", ["--insecure", "--superlink", "--host", "--port", "--node-config"]),
        ("flwr run", ["--run-config", "--stream"]),
    ],
)
def test_programs_have_the_options_that_we_give(command: str, options: list[str]) -> None:
    name, *rest = command.split()
    shown = subprocess.run(
        [program(name), *rest, "--help"],
        env={**os.environ, **QUIET, "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert [option for option in options if option not in shown] == []


def test_the_switches_are_flowers() -> None:
    import flwr.common.constant as common
    import flwr.supercore.constant as core
    import flwr.supercore.telemetry as telemetry

    assert common.FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION in QUIET
    assert core.FLWR_DISABLE_UPDATE_CHECK in QUIET
    assert 'os.getenv("FLWR_TELEMETRY_ENABLED", ' in getsource(telemetry)
