"""The ways to a model: from the seed, by a difference, whole; and which models stay on the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedkit.errors import WireError
from fedkit.packing import raw
from fedkit_clients.edge.answers import Refused
from fedkit_clients.edge.models import Models
from fedkit_clients.edge.offers import Blob, Difference, Offer

pytestmark = pytest.mark.usefixtures("fast_disk")
ECSQ = ("tensors:below=1|rotate|ecsq:delta=0.5", "first")
SIGN = ("tensors:below=1|sign", "last")


class Shelf:
    """Offers of an aggregator's versions, and which of its blobs were fetched."""

    def __init__(self, server: Any, folder: Path) -> None:
        self.server, self.fetched = server, list[Blob]()
        while len(server.results) < 4:
            server.direct()
        folder.mkdir(exist_ok=True)
        self.models = Models(folder, server.job, server.workload, self.fetch)

    def fetch(self, blob: Blob) -> bytes:
        self.fetched.append(blob)
        if blob.sha256 not in self.server.blobs:
            raise Refused(404, "unknown", "gone")
        data: bytes = self.server.blobs[blob.sha256]
        return data

    def offer(self, version: int) -> Offer:
        told = self.server._offer(version, self.server.tasks[version])
        way, model = told["difference"], told["model"]
        difference = (
            Difference(way["base"], way["told_by"], Blob(way["sha256"], way["bytes"])) if way else None
        )
        return Offer(version, Blob(told["frame"], told["bytes"]), version, Blob(**model), difference)

    def data(self, version: int) -> bytes:
        return b"".join(raw(self.server.releases[version - 1].model))

    def bring(self, offer: Offer) -> None:
        """Bring it, and see that it is the server's model."""
        self.fetched.clear()
        self.models.bring(offer)
        assert b"".join(raw(self.models.read(offer.model.sha256))) == self.data(offer.version)


@pytest.fixture(params=[ECSQ, SIGN], ids=["first", "last"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path, new_aggregator: Callable[..., Any]) -> Shelf:
    return Shelf(new_aggregator(*request.param), tmp_path)


@pytest.fixture
def told(tmp_path: Path, new_aggregator: Callable[..., Any]) -> Shelf:
    return Shelf(new_aggregator(*ECSQ), tmp_path)


def test_who_comes_every_round_takes_differences_only(shelf: Shelf) -> None:
    for version in range(1, 6):
        offer = shelf.offer(version)
        shelf.bring(offer)
        assert shelf.fetched == ([offer.difference.blob] if offer.difference else [])
        shelf.bring(offer)
        assert shelf.fetched == []


def test_differences_are_told_by_the_one_before(told: Shelf) -> None:
    assert [d.told_by if (d := told.offer(version).difference) else None for version in range(1, 6)] == [
        *(None, 0, 2, 3, 4)
    ]


def test_who_lacks_what_a_difference_starts_from_takes_the_model(shelf: Shelf) -> None:
    offer = shelf.offer(4)
    shelf.bring(offer)
    assert shelf.fetched == [offer.model]


def test_a_whole_difference_from_the_first_needs_nothing(told: Shelf) -> None:
    frame = told.server.releases[3].frame
    whole = Difference(1, 0, Blob(told.server._keep(frame), len(frame)))
    told.bring(replace(told.offer(4), difference=whole))
    assert told.fetched == [whole.blob]
    told.bring(told.offer(5))
    assert told.fetched != [told.offer(5).model]


@pytest.mark.parametrize("how", ["damaged", "gone", "long", "of another"])
def test_a_difference_that_is_of_no_use_costs_the_whole_model(shelf: Shelf, how: str) -> None:
    shelf.bring(shelf.offer(1))
    offer = shelf.offer(2)
    assert offer.difference is not None
    blob = offer.difference.blob
    if how == "damaged":
        shelf.server.blobs[blob.sha256] = shelf.server.blobs[blob.sha256][:-1]
    elif how == "gone":
        del shelf.server.blobs[blob.sha256]
    elif how == "long":
        blob = Blob(blob.sha256, offer.model.bytes)
    else:
        other = shelf.offer(3).difference
        assert other is not None
        blob = other.blob
    offer = replace(offer, difference=replace(offer.difference, blob=blob))
    shelf.bring(offer)
    assert shelf.fetched == ([offer.model] if how == "long" else [blob, offer.model])


def test_a_first_model_that_the_seed_does_not_make_is_fetched(shelf: Shelf) -> None:
    data = b"\1" * shelf.server.job.layout.nbytes
    blob = Blob(hashlib.sha256(data).hexdigest(), len(data))
    shelf.server.blobs[blob.sha256] = data
    shelf.models.bring(replace(shelf.offer(1), model=blob, difference=None))
    assert shelf.fetched == [blob]


def test_a_model_of_another_size_is_not_fetched(shelf: Shelf) -> None:
    offer = shelf.offer(2)
    with pytest.raises(WireError, match="the job's has"):
        shelf.models.bring(replace(offer, model=Blob(offer.model.sha256, 1 << 40)))
    assert shelf.fetched == []


def test_a_damaged_model_is_not_held_any_more(shelf: Shelf, tmp_path: Path) -> None:
    offer = shelf.offer(1)
    shelf.bring(offer)
    (path,) = tmp_path.glob("*.model")
    path.write_bytes(b"\1" * len(path.read_bytes()))
    with pytest.raises(WireError, match="not held"):
        shelf.models.read(offer.model.sha256)
    shelf.bring(offer)


def test_the_first_the_newest_two_and_what_is_needed_stay(shelf: Shelf, tmp_path: Path) -> None:
    for version in range(1, 6):
        shelf.bring(shelf.offer(version))
    (tmp_path / "left.tmp").write_bytes(b"")
    shelf.models.prune([shelf.offer(2).model.sha256])
    versions = sorted(int(path.name[:16]) for path in tmp_path.glob("*.model"))
    assert versions == [1, 2, 4, 5]
    assert {int(path.name[:16]) for path in tmp_path.glob("*.frame")} <= {2, 4, 5}
    shelf.models.prune([])
    assert sorted(int(path.name[:16]) for path in tmp_path.glob("*.model")) == [1, 4, 5]


def test_there_is_one_first_version_whatever_an_aggregator_says(shelf: Shelf, tmp_path: Path) -> None:
    for version in range(1, 6):
        offer = replace(shelf.offer(version), version=1, difference=None)
        shelf.models.bring(offer)
        shelf.models.prune([offer.model.sha256])
    assert len(list(tmp_path.glob("*.model"))) <= 3
