"""`fedkit scenarios | strategies | codecs | workloads`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("scenarios", "digits"), ("strategies", "fedprox"), ("workloads", "digits")],
)
def test_each_plugin_is_one_line_with_its_description_and_distribution(
    fedkit: Command, kind: str, name: str
) -> None:
    lines = fedkit(kind).stdout.splitlines()
    assert lines[0].split() == ["name", "description", "distribution"]
    line = next(line for line in lines if line.split()[0] == name)
    assert "fedkit 0" in line
    rows = json.loads(fedkit(kind, "--format", "json").stdout)
    row = next(row for row in rows if row["name"] == name)
    assert row["description"] in line
    assert row["description"]


def test_a_broken_plugin_does_not_hide_the_others(
    fedkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fedkit.strategies]\nbad = no_such_module_here:X\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = {row["name"]: row for row in json.loads(fedkit("strategies", "--format", "json").stdout)}
    assert rows["bad"]["description"].startswith("cannot be used: strategy 'bad' of broken 1.0")
    assert rows["fedavg"]["description"]


@pytest.mark.parametrize(
    ("kind", "name", "other"),
    [("strategies", "fedavg", "fedprox"), ("codecs", "int8", "eden"), ("workloads", "digits", "heart")],
)
def test_a_name_that_is_registered_twice_does_not_hide_the_others(
    fedkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str, other: str
) -> None:
    info = tmp_path / "rival-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[fedkit.{kind}]\n{name} = a:A\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for words in ((kind,), (kind, "--format", "json")):
        result = fedkit(*words)
        assert result.exit_code == 1
        assert other in result.stdout
        assert f"'{name}' is registered by" in result.stderr
        assert "rival 1.0 (a:A)" in result.stderr
