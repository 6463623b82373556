"""Updates as bytes: the round trip, and what is refused on the way back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit import wire
from fedkit.aggregate import Grid
from fedkit.codecs import CodecContext
from fedkit.codecs.none import Plain
from fedkit.dressing import dress, figures, max_bytes, min_bytes, undress
from fedkit.errors import ClientFailed, LayoutError, WireError
from fedkit.job import Job
from fedkit.messages import EncodedUpdate, Key, Update
from fedkit.tensors import Layout, Tensors
from fedkit_strategies import FedAvg

DELTA = {"w": np.zeros((2, 2), np.float32), "b": np.zeros(1, np.float32)}
EXTRAS = {"c": np.zeros(3, np.float32)}
KEY = Key("job", 3, "train", "", 0, "ann")
floats = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=8, max_size=8)


def job(extras: Tensors = EXTRAS) -> Job:
    return Job(FedAvg(), Plain(), Plain(), Layout.of(DELTA), Layout.of(extras), Grid(), {}, 0)


def update(values: list[float]) -> Update:
    v = np.array(values, np.float32)
    return Update({"w": v[:4].reshape(2, 2), "b": v[4:5]}, 2.5, {"loss": 0.5}, {"c": v[5:8]}, 0.75)


@given(floats)
def test_what_is_dressed_comes_back_bit_for_bit(values: list[float]) -> None:
    sent = update(values)
    back = undress(job(), dress(job(), KEY, sent, CodecContext(7)), CodecContext(7))
    for got, want in ((back.delta, sent.delta), (back.extras, sent.extras)):
        assert list(got) == list(want)
        assert all(got[name].tobytes() == want[name].tobytes() for name in want)
    assert (back.weight, dict(back.metrics), back.work) == (2.5, {"loss": 0.5}, 0.75)


def test_the_bounds_hold_for_delta_and_extras_together() -> None:
    size = len(dress(job(), KEY, update([1.0] * 8), CodecContext()).payload)
    assert min_bytes(job()) == size == max_bytes(job()) == 4 * 8


def test_another_codec_is_refused() -> None:
    with pytest.raises(WireError, match="codec 'zip', the job uses 'none'"):
        undress(job(), EncodedUpdate(KEY, "zip", bytes(32), 1.0, {}, 1.0), CodecContext())


@given(st.integers(0, 80).filter(lambda n: n != 32))
def test_a_payload_of_any_other_length_is_refused(length: int) -> None:
    with pytest.raises(WireError, match="payload"):
        undress(job(), EncodedUpdate(KEY, "none", bytes(length), 1.0, {}, 1.0), CodecContext())


@given(st.integers(0, 80).filter(lambda n: n != 20))
def test_without_extras_too(length: int) -> None:
    with pytest.raises(WireError, match="payload"):
        undress(job({}), EncodedUpdate(KEY, "none", bytes(length), 1.0, {}, 1.0), CodecContext())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("place", "name"), [(0, "w"), (4, "b"), (6, "c")])
def test_a_number_that_is_not_finite_is_not_dressed(bad: float, place: int, name: str) -> None:
    values = [1.0] * 8
    values[place] = bad
    with pytest.raises(LayoutError, match=name) as caught:
        dress(job(), KEY, update(values), CodecContext())
    assert caught.value.subject == name


def test_figures_become_plain_floats_that_travel() -> None:
    half = np.float32(0.5)
    weight, metrics = figures(np.float32(4.0), {"loss": half})  # type: ignore[arg-type, dict-item]
    assert (type(weight), type(metrics["loss"])) == (float, float)
    assert wire.size(EncodedUpdate(KEY, "none", b"", weight, metrics, 1.0)) > 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_figures_that_are_not_finite_are_named(bad: float) -> None:
    with pytest.raises(ClientFailed, match="'weight' is") as weight:
        figures(bad, {})
    with pytest.raises(ClientFailed, match="'loss' is") as metric:
        figures(1.0, {"accuracy": 1.0, "loss": bad})
    assert (weight.value.code, metric.value.code) == ("diverged", "diverged")
