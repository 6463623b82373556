"""Models as clients hold them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from fedkit.codecs import Codec, CodecContext
from fedkit.codecs.none import Plain
from fedkit.downlink import Downlink
from fedkit.errors import LayoutError
from fedkit.tensors import Flat, Layout, Tensors, norm, subtract

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
    flat = LAYOUT.view(LAYOUT.flatten(model(0.3)))
    for _ in range(2):
        held = downlink.publish(flat)[1]
        assert isinstance(held, Flat)
        assert held.vector is flat.vector
    assert set(downlink.save()) == {"version"}


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
