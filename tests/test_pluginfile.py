"""Plugins from files."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from fedkit import pluginfile, plugins
from fedkit.errors import ConfigError, PluginError

STRATEGY = """
from dataclasses import dataclass
from fedkit_strategies.fedavg import FedAvg

@dataclass(frozen=True)
class Mine(FedAvg):
    mu: float = 2.0
"""


def test_an_attribute_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "my strategy.py"
    file.write_text(STRATEGY)
    found = plugins.load("fedkit.strategies", f"{file}:Mine")
    cls = cast("Any", found)
    assert plugins.load("fedkit.strategies", f"{file}:Mine") is found
    assert cls.__module__ == pluginfile.module_name(file.resolve())
    assert pickle.loads(pickle.dumps(cls(mu=4.0))) == cls(mu=4.0)
    with pytest.raises(PluginError, match="has no 'Mien'; did you mean 'Mine'"):
        plugins.load("fedkit.strategies", f"{file}:Mien")


def test_a_missing_attribute_is_told_what_the_file_itself_defines(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import os\nfrom pathlib import Path\n\n\nclass Net: ...\n\n\ndef make(): ...\n\n\n"
        "_hidden = 1\nready, other = Net(), 3\nready.note = os.sep\nsize: int = 2\n"
    )
    with pytest.raises(PluginError) as caught:
        plugins.load("fedkit.workloads", f"{file}:zzz")
    assert str(caught.value).endswith("mine.py has no 'zzz'; known: Net, make, other, ready, size")


def test_a_file_may_import_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "a_neighbour_of_mine.py").write_text("VALUE = 7\n")
    (tmp_path / "main_file.py").write_text("from a_neighbour_of_mine import VALUE\n")
    assert plugins.load("fedkit.workloads", f"{tmp_path}/main_file.py:VALUE") == 7


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [("x = 1\ny = (\n", 2, "SyntaxError"), ("x = 1\n\ny = 1 / 0\n", 3, "ZeroDivisionError")],
)
def test_errors_in_a_file_show_file_and_line(tmp_path: Path, text: str, line: int, word: str) -> None:
    file = tmp_path / "bad.py"
    file.write_text(text)
    with pytest.raises(PluginError, match=word) as caught:
        plugins.load("fedkit.strategies", f"{file}:X")
    assert str(caught.value).startswith(f"{file}:{line}: ")
    assert pluginfile.module_name(file) not in sys.modules


def test_a_file_without_attribute_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"as FILE.py:NAME"):
        plugins.load("fedkit.strategies", "some/file.py")
    with pytest.raises(PluginError, match="no such file"):
        plugins.load("fedkit.strategies", f"{tmp_path}/none.py:X")


def test_files_are_made_absolute_and_names_left_alone(tmp_path: Path) -> None:
    assert pluginfile.absolute("a/b.py:C", tmp_path) == f"{tmp_path / 'a/b.py'}:C"
    assert pluginfile.absolute("flower:FedAdam", tmp_path) == "flower:FedAdam"


@pytest.mark.parametrize("name", ["a\0.py:X", "x" * 300 + ".py:X", "~nobody-of-that-name/x.py:X"])
def test_a_name_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be used as a file") as caught:
        plugins.load("fedkit.workloads", name)
    assert len(str(caught.value)) < 200
    with pytest.raises(ConfigError, match="cannot be used as a file"):
        pluginfile.absolute(name, tmp_path)
