"""What it costs to bring a client's model up to date."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.downlink import Release
from fedkit_simulations.downloads import KEPT, Downloads

SNAPSHOT = 1000


def half(frame: bytes, held: bytes) -> bytes | None:
    """What is told by another frame takes half, except where that one is of 13 bytes."""
    return frame[::2] if len(held) != 13 else None


def release(version: int, base: int, size: int) -> Release:
    return Release(version, {"w": np.zeros(1)}, bytes(size) if base else None, base)


def chain(*sizes: int, first: bool = False) -> Downloads:
    """Version 1, then a frame of each size, from the last version or from the first."""
    made = Downloads(SNAPSHOT, plain=False, relative=half)
    made.publish(release(1, 0, 0))
    for version, size in enumerate(sizes, 2):
        made.publish(release(version, 1 if first else version - 1, size))
    return made


def cost(downloads: Downloads, client: str, version: int) -> int:
    return SNAPSHOT - downloads.saved(client, version)


def test_version_one_costs_nothing_with_a_codec_since_clients_make_it_themselves() -> None:
    assert cost(chain(), "ann", 1) == 0


def test_without_a_codec_every_new_version_is_a_whole_model() -> None:
    plain = Downloads(SNAPSHOT, plain=True, relative=half)
    for version in (1, 2, 5):
        plain.publish(release(version, 0, 0))
        assert cost(plain, "ann", version) == SNAPSHOT
        assert cost(plain, "ann", version) == 0  # asked again, it holds it


def test_a_client_takes_the_frames_that_it_lacks() -> None:
    downloads = chain(10, 20, 30)
    assert cost(downloads, "ann", 2) == 10
    assert cost(downloads, "ann", 4) == 20 + 30
    assert cost(downloads, "bob", 4) == 10 + 20 + 30
    assert cost(downloads, "bob", 4) == 0


def test_from_the_first_version_one_frame_serves_everyone() -> None:
    downloads = chain(10, 20, 13, 30, first=True)
    assert cost(downloads, "ann", 4) == 13
    assert cost(downloads, "ann", 5) == 30  # its frame of 13 bytes tells nothing
    assert cost(downloads, "bob", 5) == 30


def test_a_frame_is_told_by_the_one_that_a_client_holds() -> None:
    downloads = chain(10, 20, 30, 40, first=True)
    assert cost(downloads, "ann", 2) == 10
    assert cost(downloads, "ann", 5) == 20
    assert cost(downloads, "bob", 5) == 40
    old = chain(*[30] * (KEPT + 2), first=True)
    assert cost(old, "ann", 2) == SNAPSHOT  # that frame is not kept any more
    assert cost(old, "ann", KEPT + 3) == 30


def test_a_chain_is_never_dearer_than_a_snapshot() -> None:
    downloads = chain(600, 600)
    assert cost(downloads, "ann", 3) == SNAPSHOT
    assert cost(downloads, "bob", 2) == 600


def test_whoever_is_too_far_behind_takes_a_snapshot() -> None:
    downloads = chain(*[1] * (KEPT + 5))
    newest = KEPT + 6
    assert cost(downloads, "ann", newest) == SNAPSHOT
    near = chain(*[1] * KEPT)
    assert cost(near, "ann", KEPT + 1) == KEPT


def test_a_version_told_twice_is_one_version() -> None:
    downloads = chain(10, 20)
    downloads.publish(release(3, 2, 999))
    assert cost(downloads, "ann", 3) == 30


@given(
    st.lists(st.integers(0, 400), min_size=1, max_size=12),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 13)), max_size=20),
    st.integers(0, 20),
)
def test_costs_are_bounded_and_survive_a_restart(
    sizes: list[int], first: bool, asked: list[tuple[str, int]], cut: int
) -> None:
    downloads, whole = chain(*sizes, first=first), chain(*sizes, first=first)
    for number, (client, version) in enumerate(asked):
        if number == cut:
            saved = downloads.save()
            downloads = Downloads(SNAPSHOT, plain=False, relative=half)
            downloads.load(saved)
        version = min(version, len(sizes) + 1)
        spent = cost(downloads, client, version)
        assert spent == cost(whole, client, version)
        assert 0 <= spent <= SNAPSHOT


@pytest.mark.parametrize("first", [False, True])
def test_going_back_to_an_older_version_is_possible(first: bool) -> None:
    downloads = chain(10, 20, first=first)
    cost(downloads, "ann", 3)
    assert cost(downloads, "ann", 2) == 10
