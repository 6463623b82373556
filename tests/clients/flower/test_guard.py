"""The range of Flower versions, and a clear word outside it."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from fedkit.errors import ConfigError
from fedkit_clients.flower import guard

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("version", ["1.41.0", "1.42.3", "1.41.0.dev20260101"])
def test_versions_in_the_range_pass(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: version)
    assert guard.demand_flower() == version


@pytest.mark.parametrize("version", ["1.40.9", "1.43.0", "2.0.0", "0.41", "nightly"])
def test_others_are_refused_with_both_versions_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: version)
    with pytest.raises(ConfigError, match=r"flwr>=1\.41,<1\.43: pip install 'fedkit\[flower\]'") as caught:
        guard.demand_flower()
    assert version in str(caught.value)


def test_without_flower_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(ConfigError, match="not installed"):
        guard.demand_flower()


def test_the_extra_has_the_same_range() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    first, beyond = (".".join(map(str, version)) for version in (guard.FIRST, guard.BEYOND))
    assert extras["flower"] == [f"flwr>={first},<{beyond}"]
