"""Plugins: entry points, files, providers, and every way in which they can be wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedkit import API_VERSION, plugins
from fedkit.errors import ConfigError, PluginError
from fedkit_strategies.fedavg import FedAvg
from fedkit_strategies.fedprox import FedProx

STRATEGY = """
from dataclasses import dataclass
from fedkit_strategies.fedavg import FedAvg

@dataclass(frozen=True)
class Mine(FedAvg):
    \"\"\"Mine is best.

    More.
    \"\"\"

    mu: float = 2.0
"""
PROVIDER = """
def provider(rest):
    return ("provided", rest)
"""


class Site:
    """A directory on sys.path into which distributions can be put."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, entry_points: str, version: str = "1.0") -> None:
        info = self.folder / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(entry_points)

    def module(self, name: str, text: str) -> None:
        (self.folder / f"{name}.py").write_text(text)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Site(tmp_path)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_an_entry_point_is_found_with_its_distribution() -> None:
    assert plugins.load("fedkit.strategies", "fedprox") is FedProx
    value, owner = plugins.names("fedkit.strategies")["fedavg"]
    assert value == "fedkit_strategies.fedavg:FedAvg"
    assert owner.startswith("fedkit ")


def test_a_stranger_registers_as_we_do(site: Site) -> None:
    site.add("stranger", "[fedkit.strategies]\nmine = stranger_mod:Mine\n")
    site.module("stranger_mod", STRATEGY)
    made = plugins.strategy("mine", {"mu": 3})
    assert made.__dict__ == {"lr": 1.0, "mu": 3.0}
    assert plugins.strategy_name(made) == "mine"
    assert plugins.describe(type(made)) == "Mine is best."
    assert plugins.names("fedkit.strategies")["mine"] == ("stranger_mod:Mine", "stranger 1.0")


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(PluginError, match="unknown strategy 'fedprx'; did you mean 'fedprox'"):
        plugins.load("fedkit.strategies", "fedprx")


def test_one_name_from_two_distributions_is_an_error_that_names_both(site: Site) -> None:
    site.add("one-dist", "[fedkit.strategies]\nsame = a:A\nfine = a:B\n")
    site.add("two-dist", "[fedkit.strategies]\nsame = b:A\n", version="2.0")
    with pytest.raises(PluginError, match=r"registered by one-dist 1.0") as caught:
        plugins.load("fedkit.strategies", "same")
    assert "two-dist 2.0 (b:A)" in str(caught.value)
    with pytest.raises(PluginError, match="registered by"):
        plugins.names("fedkit.strategies")
    assert plugins.load("fedkit.strategies", "fedavg") is FedAvg
    found, doubled = plugins.listing("fedkit.strategies")
    assert found["fine"] == ("a:B", "one-dist 1.0")
    assert "same" not in found
    assert doubled.keys() == {"same"}
    assert "two-dist 2.0 (b:A)" in doubled["same"]


def test_another_api_version_is_an_error_that_names_both(site: Site) -> None:
    points = "[fedkit.strategies]\nmine = old_mod:Mine\n[fedkit.api]\n{} = fedkit:API_VERSION\n"
    site.module("old_mod", STRATEGY)
    site.add("of-today", points.format(API_VERSION).replace("mine", "today"))
    assert plugins.load("fedkit.strategies", "today")
    site.add("too-old", points.format(API_VERSION + 1))
    with pytest.raises(
        PluginError, match=rf"too-old 1.0 was built for plugin API {API_VERSION + 1}, but fedkit"
    ):
        plugins.load("fedkit.strategies", "mine")


def test_a_plugin_that_cannot_be_imported_names_its_distribution(site: Site) -> None:
    site.add("broken", "[fedkit.codecs]\nbad = no_such_module_here:X\n")
    with pytest.raises(PluginError, match=r"codec 'bad' of broken 1.0 .*no_such_module_here"):
        plugins.load("fedkit.codecs", "bad")


def test_a_provider_is_asked_for_the_rest(site: Site) -> None:
    site.add("prov", "[fedkit.strategies]\ngarden = prov_mod:provider\n")
    site.module("prov_mod", PROVIDER)
    assert plugins.load("fedkit.strategies", "garden:FedAdam:x") == ("provided", "FedAdam:x")


def test_options_of_a_strategy_and_of_a_codec_are_checked() -> None:
    assert plugins.strategy("fedprox", {"mu": 1}) == FedProx(mu=1.0)
    with pytest.raises(ConfigError, match="'fedprox': muu: unknown key; did you mean 'mu'"):
        plugins.strategy("fedprox", {"muu": 1})
    with pytest.raises(ConfigError, match="codec 'none:bits=1': bits: unknown key"):
        plugins.codec("none:bits=1")


def test_a_codec_from_a_file_takes_options_and_stands_in_pipelines(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from fedkit.codecs.int8 import Int8\n\n\nclass Mine(Int8):\n    pass\n")
    assert plugins.codec(f"rotate|{file}:Mine:block=64").spec == plugins.codec("rotate|int8:block=64").spec
    with pytest.raises(ConfigError, match="blok: unknown key; did you mean 'block'"):
        plugins.codec(f"{file}:Mine:blok=64")


def test_a_file_is_refused_where_only_registered_codecs_are_allowed(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for spec in (f"{file}:Mine", f"rotate|{file}:Mine"):
        with pytest.raises(PluginError, match="only registered codecs are allowed here"):
            plugins.codec(spec, files=False)
    assert not (tmp_path / "ran").exists()
    assert plugins.codec("rotate|int8", files=False) == plugins.codec("rotate|int8")


def test_what_is_not_a_strategy_or_codec_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "thing.py"
    file.write_text("class Thing:\n    pass\n")
    with pytest.raises(PluginError, match="makes a Thing, not a fedkit"):
        plugins.strategy(f"{file}:Thing")
    with pytest.raises(PluginError, match="makes a Thing, not a fedkit"):
        plugins.codec(f"{file}:Thing")


LEAVES = "import sys\nsys.exit(0)\n"


def test_a_plugin_that_exits_is_an_error_and_not_the_end(tmp_path: Path, site: Site) -> None:
    file = tmp_path / "leaves.py"
    file.write_text(LEAVES)
    with pytest.raises(PluginError, match=r"leaves.py:2: it calls sys.exit\(0\)"):
        plugins.load("fedkit.workloads", f"{file}:X")
    site.add("leaver", "[fedkit.strategies]\nleaves = leaver_mod:X\n")
    site.module("leaver_mod", LEAVES)
    with pytest.raises(PluginError, match=r"'leaves' of leaver 1.0 .*sys.exit\(0\)"):
        plugins.load("fedkit.strategies", "leaves")


@pytest.mark.parametrize(
    ("line", "kind", "text"),
    [
        ("raise ValueError('mu must not be negative')", ConfigError, "Mine': mu must not be negative"),
        ("raise KeyError('oops')", PluginError, "Mine' cannot be made: KeyError: 'oops'"),
        ("raise SystemExit(0)", PluginError, r"Mine' cannot be made: it calls sys.exit\(0\)"),
    ],
)
def test_what_a_strategy_raises_when_it_is_made_names_it(
    tmp_path: Path, line: str, kind: type[ConfigError], text: str
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"{STRATEGY}\n    def __post_init__(self):\n        {line}\n")
    with pytest.raises(ConfigError, match=text) as caught:
        plugins.strategy(f"{file}:Mine")
    assert type(caught.value) is kind
