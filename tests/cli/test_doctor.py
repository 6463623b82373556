"""`fedkit doctor` and `fedkit --version`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import fedkit as package

Command = Callable[..., Any]


def _rows(fedkit: Command) -> dict[str, dict[str, str]]:
    result = fedkit("doctor", "--format", "json")
    assert result.exit_code == 0
    return {row["what"]: row for row in json.loads(result.stdout)}


def test_versions_extras_and_hardware(fedkit: Command) -> None:
    rows = _rows(fedkit)
    assert rows["fedkit"]["found"].startswith(package.__version__)
    assert rows["numpy"]["found"] == metadata.version("numpy")
    assert int(rows["cores"]["found"]) >= 1
    assert {"extra torch", "extra demo", "extra server", "memory", "accelerator"} <= rows.keys()
    assert "fedavg" in rows["plugins strategies"]["found"]
    assert "numpy" in fedkit("doctor").stdout


def test_a_missing_extra_says_how_to_get_it(fedkit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name in ("torch", "starlette"):
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    rows = _rows(fedkit)
    assert "torch missing" in rows["extra torch"]["found"]
    assert rows["extra torch"]["how"] == "pip install 'fedkit[torch]'"
    assert rows["extra server"]["how"] == "pip install 'fedkit[server]'"
    assert rows["accelerator"]["found"] == "none (torch is not installed)"


def test_without_torch_the_extra_is_named_once(fedkit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setitem(sys.modules, "torch", None)
    for module in [name for name in sys.modules if name.startswith("fedkit_clients.torch")]:
        monkeypatch.delitem(sys.modules, module)
    rows = json.loads(fedkit("doctor", "--format", "json").stdout)
    assert [row["what"] for row in rows if "fedkit[torch]" in row["how"]] == ["extra torch"]
    found = [row for row in rows if row["what"] == "plugins trainers"]
    assert [(row["found"], row["how"]) for row in found] == [
        ("numpy, torch", ""),
        ("torch needs the extra torch", ""),
    ]
    assert not any("uninstall" in row["how"] for row in rows)


def test_data_is_looked_for(fedkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDKIT_DATA", raising=False)
    assert "not set" in _rows(fedkit)["data"]["found"]
    monkeypatch.setenv("FEDKIT_DATA", str(tmp_path))
    assert "no data set there" in _rows(fedkit)["data"]["found"]
    (tmp_path / "mnist.npz").write_bytes(b"")
    assert _rows(fedkit)["data"] == {"what": "data", "found": f"{tmp_path}: mnist.npz", "how": ""}


def test_two_plugins_of_one_name_are_reported(
    fedkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "rival-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fedkit.strategies]\nfedavg = a:A\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = json.loads(fedkit("doctor", "--format", "json").stdout)
    first, second = [row for row in rows if row["what"] == "plugins strategies"]
    assert first["found"] == "fedprox, flower"
    assert "rival 1.0 (a:A)" in second["found"]
    assert second["how"] == "uninstall one of the two"


def test_version(fedkit: Command) -> None:
    assert fedkit("--version").stdout == f"fedkit {package.__version__}\n"


def test_an_unknown_command_exits_2(fedkit: Command) -> None:
    assert fedkit("rnu").exit_code == 2
