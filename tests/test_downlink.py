"""Models as clients hold them."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedkit import plugins
from fedkit.codecs import Codec, CodecContext, require_downlink
from fedkit.codecs.none import Plain
from fedkit.downlink import DIGEST, Base, Downlink, Follower, Release, relative
from fedkit.errors import ConfigError, LayoutError, RunFailed, WireError
from fedkit.seeds import stream
from fedkit.tensors import Flat, Layout, Tensors, norm, sealed_copy, subtract

LAYOUT = Layout(("w", "b"), ((3,), (2,)), ("float32", "float32"))


class Coarse(Codec):
    """Rounds to multiples of 1/8: coarse enough to see."""

    id: ClassVar[str] = "coarse"
    unbiased: ClassVar[bool] = False

    def encode(self, delta: Tensors, layout: Layout, ctx: CodecContext) -> bytes:
        steps: NDArray[np.int8] = np.rint(layout.flatten(delta) * 8).clip(-127, 127).astype(np.int8)
        return steps.tobytes()

    def decode(self, payload: bytes, layout: Layout, ctx: CodecContext) -> Tensors:
        return layout.view((np.frombuffer(payload, np.int8) / 8).astype(np.float32))

    def max_len(self, layout: Layout) -> int:
        return layout.size


def model(value: float) -> Tensors:
    """A model that is no multiple of the codec's step."""
    return {"w": np.full(3, value, np.float32), "b": np.full(2, -value, np.float32)}


def test_versions_count_from_one() -> None:
    downlink = Downlink(Plain(), LAYOUT)
    assert [downlink.publish(model(0.1))[0] for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("codec", [Plain(), Coarse()])
def test_the_first_publish_is_a_snapshot(codec: Codec) -> None:
    _, held, *_ = Downlink(codec, LAYOUT).publish(model(0.3))
    assert norm(subtract(held, LAYOUT.view(LAYOUT.flatten(model(0.3))))) == 0.0


def test_without_a_codec_clients_hold_the_model_itself() -> None:
    downlink = Downlink(Plain(), LAYOUT)
    flat = sealed_copy(model(0.3), LAYOUT)
    for _ in range(2):
        held = downlink.publish(flat)[1]
        assert isinstance(held, Flat)
        assert held.vector is flat.vector
    assert set(downlink.save()) == {"version"}


@pytest.mark.parametrize("codec", [Plain(), Coarse()])
def test_a_vector_that_its_owner_changes_later_is_copied(codec: Codec) -> None:
    mine = LAYOUT.view(LAYOUT.flatten(model(0.25)))
    downlink = Downlink(codec, LAYOUT)
    held = downlink.publish(mine).model
    mine.vector[:] = 7
    assert held["w"].tolist() == [0.25] * 3
    assert downlink.current(mine).model["w"].tolist() == [0.25] * 3


class Broken(Coarse):
    """Does what `how` says, from the second version on."""

    def __init__(self, how: str) -> None:
        self.how = how

    def encode(self, delta: Tensors, layout: Layout, ctx: CodecContext) -> Any:
        if self.how == "encode":
            raise IndexError("boom")
        made = super().encode(delta, layout, ctx)
        return {"none": None, "long": made + b"..."}.get(self.how, made)

    def decode(self, payload: bytes, layout: Layout, ctx: CodecContext) -> Any:
        if self.how == "decode":
            raise IndexError("boom")
        return None if self.how == "nothing" else super().decode(payload, layout, ctx)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("encode", "'coarse' raised IndexError: boom"),
        ("none", "'coarse' made NoneType, not bytes"),
        ("long", "'coarse' made 8 bytes, and says 5 to 5"),
        ("decode", "'coarse' does not decode what it has encoded: codec 'coarse' raised IndexError: boom"),
        ("nothing", "'coarse' does not decode what it has encoded: codec 'coarse' returned None"),
    ],
)
def test_a_codec_that_fails_is_named_and_nothing_is_published(how: str, text: str) -> None:
    downlink = Downlink(Broken(how), LAYOUT)
    first = downlink.publish(model(0.5))
    with pytest.raises(RunFailed, match=f"codec.down {text}"):
        downlink.publish(model(1.0))
    assert downlink.version == 1
    assert downlink.current(model(1.0)).model is first.model
    follower = Follower(Broken(how), LAYOUT)
    follower.snapshot(1, first.model)
    if how in ("decode", "nothing"):
        with pytest.raises(WireError, match="codec 'coarse'"):
            follower.follow(2, 1, bytes(DIGEST) + bytes(5))
        assert follower.version == 1


def test_a_model_that_cannot_be_encoded_leaves_the_version_as_it_was() -> None:
    downlink = Downlink(plugins.codec("int8", "down"), LAYOUT)
    downlink.publish(model(0.0))
    with pytest.raises(LayoutError, match="'w': holds nan"):
        downlink.publish(model(float("nan")))
    assert downlink.version == 1


def test_a_lossy_codec_leaves_an_error_that_does_not_grow() -> None:
    downlink = Downlink(Coarse(), LAYOUT)
    downlink.publish(model(0.0))
    for round in range(1, 50):
        target = model(0.11 * round)
        _, held, *_ = downlink.publish(target)
        assert max(float(np.abs(held[n] - target[n]).max()) for n in target) <= 1 / 16 + 1e-5


def test_what_was_published_does_not_change_later() -> None:
    downlink = Downlink(Coarse(), LAYOUT)
    _, first, *_ = downlink.publish(model(1.0))
    downlink.publish(model(2.0))
    assert first["w"].tolist() == [1.0] * 3


@pytest.mark.parametrize("codec", [Plain(), Coarse()])
def test_save_and_load_continue_alike(codec: Codec) -> None:
    first, second = Downlink(codec, LAYOUT), Downlink(codec, LAYOUT)
    second.load(first.save())
    for value in (0.1, 0.25, 0.7):
        one, other = first.publish(model(value)), second.publish(model(value))
        assert one[0] == other[0]
        assert LAYOUT.flatten(one[1]).tobytes() == LAYOUT.flatten(other[1]).tobytes()
        state = {g: {n: np.array(a) for n, a in reversed(list(t.items()))} for g, t in first.save().items()}
        second = Downlink(codec, LAYOUT)
        second.load(state)


def test_a_model_of_another_layout_is_refused() -> None:
    with pytest.raises(LayoutError, match="'b': is missing"):
        Downlink(Plain(), LAYOUT).publish({"w": np.zeros(3, np.float32)})


BIG = Layout(("w", "b"), ((40, 30), (30,)), ("float32", "float32"))
LOSSY = ["ecsq:delta=2,mode=near", "ecsq:delta=1,mode=dither", "int8", "bfloat16", "sign", "stc", "topk|int4"]


class Pair:
    """A server and a client of one run, whose model walks at random."""

    def __init__(self, spec: str, base: Base, dtype: str = "float32") -> None:
        self.layout = Layout(BIG.names, BIG.shapes, (dtype, dtype))
        self.codec = plugins.codec(spec, "down")
        self.server = Downlink(self.codec, self.layout, 5, base)
        self.client = Follower(self.codec, self.layout, 5)
        self.model = np.zeros(self.layout.size, dtype)
        self.releases: list[Release] = []
        self.publish()
        self.client.snapshot(1, self.releases[0].model)  # every client makes version 1 from the job's seed

    def publish(self) -> Release:
        step = stream(len(self.releases), "walk").normal(self.layout.size) ** 3
        self.model = (self.model + 0.01 * step).astype(self.model.dtype)
        self.releases.append(self.server.publish(self.layout.view(self.model)))
        return self.releases[-1]

    def follow(self, release: Release) -> None:
        assert release.frame is not None
        self.client.follow(release.version, release.base, release.frame)

    def held(self) -> tuple[int, bytes]:
        return self.client.version, self.layout.flatten(self.client.model).tobytes()

    def agrees(self, release: Release) -> bool:
        return self.held() == (release.version, self.layout.flatten(release.model).tobytes())


@pytest.mark.parametrize("base", ["last", "first"])
@pytest.mark.parametrize("spec", LOSSY)
@settings(max_examples=8, deadline=None)
@given(arrives=st.lists(st.booleans(), min_size=1, max_size=10))
def test_whatever_frames_are_lost_the_client_ends_with_the_servers_model(
    spec: str, base: Base, arrives: list[bool]
) -> None:
    pair = Pair(spec, base)
    snapshots = 0
    for there in [*arrives, True]:
        release = pair.publish()
        if not there:
            continue
        before = pair.held()
        try:
            pair.follow(release)
        except WireError:
            assert pair.held() == before
            pair.client.snapshot(release.version, release.model)
            snapshots += 1
        assert pair.agrees(release)
    lost = any(not there for there in arrives)
    assert (snapshots > 0) == (lost and base == "last")  # from the first version any one frame will do


@pytest.mark.parametrize("spec", ["ecsq:delta=2,mode=near", "int8"])
def test_a_chain_of_frames_leads_to_what_the_snapshot_holds(spec: str) -> None:
    pair = Pair(spec, "last", "float64")
    for _ in range(5):
        pair.publish()
    for release in pair.releases[1:]:
        pair.follow(release)
        assert pair.agrees(release)


@pytest.mark.parametrize("base", ["last", "first"])
def test_damage_is_refused_with_nothing_changed(base: Base) -> None:
    pair = Pair("ecsq:delta=2,mode=near", base)
    release = pair.publish()
    assert release.frame is not None
    before = pair.held()
    other_hash = bytes(DIGEST) + release.frame[DIGEST:]
    for frame, text in (
        (other_hash, "leads to another model: ask a snapshot"),
        (release.frame[:-1], "payload"),
        (release.frame[:DIGEST], "payload"),
        (b"", "payload"),
    ):
        with pytest.raises(WireError, match=text):
            pair.client.follow(release.version, release.base, frame)
        assert pair.held() == before
    pair.follow(release)
    assert pair.agrees(release)


def test_a_frame_told_by_an_earlier_one_leads_to_the_same_model() -> None:
    pair = Pair("ecsq:delta=2,mode=near", "first")
    early, release = pair.publish(), [pair.publish() for _ in range(5)][-1]
    assert early.frame is not None
    assert release.frame is not None
    told = relative(pair.codec, pair.layout, release.frame, early.frame)
    assert told is not None
    before = pair.held()
    with pytest.raises(WireError, match="version 1 is held"):  # it has not got the early one
        pair.client.follow(release.version, 1, told, early.version)
    assert pair.held() == before
    pair.follow(early)
    pair.client.follow(release.version, 1, told, early.version)
    assert pair.agrees(release)
    latest = pair.publish()
    assert latest.frame is not None
    again = relative(pair.codec, pair.layout, latest.frame, release.frame)  # which came told itself
    assert again is not None
    pair.client.follow(latest.version, 1, again, release.version)
    assert pair.agrees(latest)


def test_a_late_or_second_frame_moves_nobody_back() -> None:
    pair = Pair("ecsq:delta=2,mode=near", "first")
    early, late = pair.publish(), pair.publish()
    pair.follow(late)
    for _ in range(2):
        pair.follow(early)
        pair.follow(late)
        assert pair.agrees(late)


def test_a_client_that_has_drifted_finds_out() -> None:
    pair = Pair("int8", "last")
    drifted = pair.model.copy()
    drifted[7] += np.float32(0.01)
    pair.client.snapshot(1, pair.layout.view(drifted))
    with pytest.raises(WireError, match="leads to another model"):
        pair.follow(pair.publish())


def test_a_frame_from_a_version_that_is_not_held_is_refused() -> None:
    pair = Pair("int8", "last")
    pair.publish()
    with pytest.raises(WireError, match="frame from version 2 to 3, but version 1 is held: ask a snapshot"):
        pair.follow(pair.publish())
    fresh = Follower(pair.codec, pair.layout, 5)
    with pytest.raises(WireError, match="but version 0 is held"):
        fresh.follow(2, 1, pair.releases[1].frame or b"")


def test_the_error_of_one_frame_is_made_up_by_the_next() -> None:
    pair = Pair("sign", "last")
    target = pair.layout.view(pair.model)
    errors = [norm(subtract(pair.server.publish(target).model, target)) for _ in range(60)]
    assert errors[-1] < 0.2 * max(norm(target), errors[0])


@pytest.mark.parametrize("base", ["last", "first"])
def test_a_restarted_server_goes_on_with_what_its_clients_hold(base: Base) -> None:
    pair = Pair("ecsq:delta=2,mode=near", base)
    pair.follow(pair.publish())
    again = Downlink(pair.codec, pair.layout, 5, base)
    again.load(pair.server.save())
    current = again.current(pair.layout.view(pair.model))
    assert (current.version, current.frame) == (2, None)
    assert pair.agrees(current)
    pair.server = again
    pair.follow(pair.publish())
    assert pair.agrees(pair.releases[-1])


@pytest.mark.parametrize("spec", [*LOSSY, "ecsq:delta=1.9", "qsgd:levels=40", "topk:share=.1|int8"])
def test_an_error_that_is_encoded_again_dies_out(spec: str) -> None:
    """The model walks on; what clients hold stays near it, however long."""
    require_downlink(plugins.codec(spec, "down"), "last")
    pair = Pair(spec, "last")
    errors = [norm(subtract(pair.publish().model, pair.layout.view(pair.model))) for _ in range(120)]
    assert max(errors[80:]) <= 3 * max(errors[20:60])


@pytest.mark.parametrize("spec", ["ecsq:delta=8", "qsgd", "sample|bfloat16:mode=stoch"])
def test_one_that_would_not_is_refused(spec: str) -> None:
    pair = Pair(spec, "last")
    errors = [norm(subtract(pair.publish().model, pair.layout.view(pair.model))) for _ in range(60)]
    assert errors[-1] > 100 * errors[5]
    with pytest.raises(ConfigError, match="grow without end: use 'ecsq:delta=2,mode=near'"):
        require_downlink(plugins.codec(spec, "down"), "last")
    require_downlink(plugins.codec(spec, "down"), "first")
