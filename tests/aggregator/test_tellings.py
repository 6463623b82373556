"""Differences told by one that the device holds: shorter, right, and gone when nothing needs them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkit.aggregate import Grid
from fedkit.aggregator.app import App
from fedkit.aggregator.blobs import Blobs
from fedkit.aggregator.federation import EdgeFederation
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.leases import Lease
from fedkit.aggregator.registry import Roster
from fedkit.aggregator.releases import Published, Releases
from fedkit.aggregator.tellings import Tellings
from fedkit.downlink import DIGEST, Downlink, Follower, Release
from fedkit.job import Job
from fedkit.plugins import codec, strategy
from fedkit.secagg.identity import Trust
from fedkit.tensors import Flat, Layout, flat

LAYOUT = Layout(("w",), ((4000,),), ("float32",))
DOWN = "ecsq:delta=1"


def make_job() -> Job:
    return Job(
        *(strategy("fedavg"), codec("none"), codec(DOWN), LAYOUT, Layout((), (), ()), Grid(), {}, 7),
        down_base="first",
    )


@dataclass
class Site:
    """A journal with four versions of a model, of which the last moved a little."""

    directory: Path

    def __post_init__(self) -> None:
        self.job, self.journal = make_job(), Journal(self.directory)
        self.blobs = Blobs(self.directory / "blobs")
        self.federation = EdgeFederation(self.journal, Roster(Trust.none()))
        self.federation.open(self.job)
        self.downlink = Downlink(self.job.codec_down, LAYOUT, self.job.model_seed, "first")
        self.made: dict[int, Release] = {}
        draws = np.random.default_rng(0)
        value = draws.normal(size=4000).astype(np.float32)
        for far in (2.0, 2.0, 0.1, 0.0):
            self.publish(flat({"w": value.copy()}))
            value += far * draws.normal(size=4000).astype(np.float32)
        self.releases = Releases(self.journal, self.blobs)
        self.tellings = Tellings(self.journal, self.blobs, self.releases)

    def publish(self, model: Flat) -> Release:
        release = self.downlink.publish(model)
        self.made[release.version] = release
        self.federation.publish(release)
        return release

    def found(self, version: int) -> Published:
        found = self.releases.find(version)
        assert found is not None
        return found

    def read(self, digest: str | None) -> bytes:
        path = self.blobs.find(digest or "")
        assert path is not None
        return path.read_bytes()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.journal.close()


def test_it_is_shorter_and_leads_to_the_model(site: Site) -> None:
    whole = site.found(4)
    told = site.tellings.shortest(whole, 3)
    assert (told.told_by, told.base, told.model) == (3, 1, whole.model)
    assert told.frame_bytes < 0.8 * whole.frame_bytes
    frame = site.read(told.frame)
    assert len(frame) == told.frame_bytes
    follower = Follower(site.job.codec_down, LAYOUT, site.job.model_seed)
    follower.snapshot(1, site.made[1].model)
    follower.follow(3, 1, site.read(site.found(3).frame))
    follower.follow(4, 1, frame, told_by=3)
    assert follower.model["w"].tobytes() == site.made[4].model["w"].tobytes()
    assert frame[:DIGEST] == site.read(whole.frame)[:DIGEST]


@pytest.mark.parametrize("held", [0, 1, 4, 5, 99])
def test_who_holds_no_such_difference_is_told_it_whole(site: Site, held: int) -> None:
    assert site.tellings.shortest(site.found(4), held) == site.found(4)


def test_a_difference_from_the_version_before_is_never_told_by_another(site: Site) -> None:
    last = replace(site.found(4), base=3)
    assert site.tellings.shortest(last, 3) == last


def test_it_is_made_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    first = site.tellings.shortest(site.found(4), 3)
    monkeypatch.setattr("fedkit.aggregator.tellings.relative", None)
    again = Tellings(site.journal, site.blobs, site.releases)
    assert again.shortest(site.found(4), 3) == first


def test_it_goes_with_its_version(site: Site) -> None:
    told = site.tellings.shortest(site.found(4), 3)
    site.releases.sweep()
    assert site.read(told.frame)
    site.publish(flat({"w": np.zeros(4000, np.float32)}))
    site.releases.sweep()
    assert site.blobs.find(told.frame or "") is None


def test_a_version_that_is_replaced_takes_what_was_told_of_it_along(site: Site) -> None:
    told = site.tellings.shortest(site.found(4), 3)
    site.federation.publish(Release(4, flat({"w": np.ones(4000, np.float32)}), site.made[2].frame, 1))
    site.releases.sweep()
    assert site.blobs.find(told.frame or "") is None
    assert site.tellings.shortest(site.found(4), 3).frame != told.frame


def test_an_offer_names_it(site: Site) -> None:
    app = App(site.journal, Roster(Trust.none()))
    lease = Lease(1, "a" * 64, 9, 4)
    offers: list[Any] = [app._news._offer(lease, {}, held) for held in (3, 0)]
    assert [offer["difference"]["told_by"] for offer in offers] == [3, 0]
    assert offers[0]["difference"]["bytes"] < offers[1]["difference"]["bytes"]
