"""docs/migrate-from-flower.md: the Flower half of its quickstart, run by Flower's own loop."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "migrate-from-flower.md"
FILES = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```$", re.M | re.S)
NODES = 10


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch) -> Any:
    """flwr.app, in a process that Flower takes for one of a run."""
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Flower warns of when it is imported is not ours
        for name in ("flwr.serverapp", "flwr.clientapp"):
            pytest.importorskip(name)
    identity = import_module("flwr.supercore.task_identity").TaskIdentity
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(identity, name, 1)
    return import_module("flwr.app")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's files in a folder from which they can be imported."""
    files = dict(FILES.findall(PAGE.read_text(encoding="utf-8")))
    assert {"task.py", "client_app.py", "server_app.py"} <= files.keys()
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = [name.removesuffix(".py") for name in files]
    for module in modules:  # those of another folder, if the page's own blocks have run before
        sys.modules.pop(module, None)
    yield tmp_path
    for module in modules:
        sys.modules.pop(module, None)


class Nodes:
    """Flower's Grid over nodes in this process."""

    def __init__(self, app: Any, api: Any) -> None:
        self.app = app
        self.contexts = [
            api.Context(1, k, {"partition-id": k, "num-partitions": NODES}, api.RecordDict(), {})
            for k in range(NODES)
        ]

    def get_node_ids(self) -> Iterable[int]:
        return range(NODES)

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> list[Any]:
        return [self.app(message, self.contexts[message.metadata.dst_node_id]) for message in messages]


@pytest.mark.slow
@pytest.mark.usefixtures("project")
def test_flowers_half_of_the_quickstart_runs(flower: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """It learns as well as the page's other half, whose accuracy the page shows."""
    client, server = import_module("client_app").app, import_module("server_app").app
    server(Nodes(client, flower), flower.Context(1, 0, {}, flower.RecordDict(), {}))
    printed = re.search(r"'accuracy': ([\d.]+)", capsys.readouterr().out)
    shown = re.search(r"^metrics  accuracy ([\d.]+)", PAGE.read_text(encoding="utf-8"), re.M)
    assert printed is not None
    assert shown is not None
    assert abs(float(printed[1]) - float(shown[1])) < 0.05
