"""What every lossy codec does around its stages."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fedkit.codecs import CodecContext, Pipeline, TensorRules
from fedkit.codecs.ecsq import Ecsq
from fedkit.codecs.int8 import Int8
from fedkit.errors import LayoutError, WireError
from fedkit.tensors import Layout

Heavy = Callable[..., NDArray[np.float32]]
LAYOUT = Layout(("conv", "bias", "fc", "norm"), ((50, 40), (10,), (1500,), (2, 4)), ("float32",) * 4)
CTX = CodecContext(seed=1)


def delta(heavy: Heavy) -> dict[str, NDArray[np.float32]]:
    return dict(LAYOUT.view(heavy(LAYOUT.size)))


def test_small_tensors_do_not_go_through_the_stages(heavy: Heavy) -> None:
    given = delta(heavy)
    for rules, bound in ((TensorRules(), 2.0**-7), (TensorRules("float32"), 0.0)):
        codec = Pipeline(Ecsq(64.0), rules=rules)
        made = codec.decode(codec.encode(given, LAYOUT, CTX), LAYOUT, CTX)
        for name in ("bias", "norm"):
            assert (np.abs(made[name] - given[name]) <= bound * np.abs(given[name])).all()
        assert np.abs(made["conv"] - given["conv"]).max() > 0.1 * np.abs(given["conv"]).max()


def test_exempt_tensors_do_not_either(heavy: Heavy) -> None:
    codec = Pipeline(Ecsq(64.0), rules=TensorRules("float32", exempt="conv"))
    made = codec.decode(codec.encode(delta(heavy), LAYOUT, CTX), LAYOUT, CTX)
    assert made["conv"].tobytes() == delta(heavy)["conv"].tobytes()
    assert made["fc"].tobytes() != delta(heavy)["fc"].tobytes()


def test_small_tensors_of_an_unbiased_codec_are_unbiased_too(heavy: Heavy) -> None:
    layout = Layout(("b",), ((500,),), ("float32",))
    x = heavy(500)
    made = [Int8(), Ecsq(), Ecsq(mode="near")]
    means = []
    for stage in made:
        codec = Pipeline(stage)
        runs = [CodecContext(seed=s) for s in range(400)]
        decoded = [codec.decode(codec.encode({"b": x}, layout, c), layout, c)["b"] for c in runs]
        means.append(
            float(np.linalg.norm(np.mean(decoded, axis=0, dtype=np.float64) - x) / np.linalg.norm(x))
        )
    assert means[0] < 3e-4
    assert means[1] < 3e-4
    assert means[2] > 5e-4  # nearest rounding has a bias that no averaging removes


def test_float64_comes_back_as_float64_of_float32_accuracy(heavy: Heavy) -> None:
    layout = Layout(LAYOUT.names, LAYOUT.shapes, ("float64",) * 4)
    given = {n: a.astype(np.float64) * (1 + 1e-10) for n, a in delta(heavy).items()}
    codec = Pipeline(Ecsq(1.0), rules=TensorRules("float32"))
    made = codec.decode(codec.encode(given, layout, CTX), layout, CTX)
    assert {a.dtype.name for a in made.values()} == {"float64"}
    assert np.allclose(made["bias"], given["bias"], rtol=1e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2e30, -1e38])
@pytest.mark.parametrize("name", LAYOUT.names)
def test_a_value_that_cannot_be_encoded_is_refused_by_its_tensors_name(
    bad: float, name: str, heavy: Heavy
) -> None:
    given = {n: a.copy() for n, a in delta(heavy).items()}
    given[name].reshape(-1)[-1] = bad
    with pytest.raises(LayoutError, match=r"2\^100" if np.isfinite(bad) else "holds") as caught:
        Pipeline(Ecsq()).encode(given, LAYOUT, CTX)
    assert caught.value.subject == name


def test_a_float64_value_past_float32_is_refused() -> None:
    layout = Layout(("w",), ((2,),), ("float64",))
    with pytest.raises(LayoutError, match=r"1e\+300; magnitudes above"):
        Pipeline(Ecsq()).encode({"w": np.array([0.0, 1e300])}, layout, CTX)


def test_the_payload_of_another_codec_parameter_or_layout_is_refused(heavy: Heavy) -> None:
    payload = Pipeline(Int8()).encode(delta(heavy), LAYOUT, CTX)
    other = Layout(("conv2", *LAYOUT.names[1:]), LAYOUT.shapes, LAYOUT.dtypes)
    renamed = Pipeline(Int8(), rules=TensorRules(exempt="nothing"))
    for codec, layout in ((Pipeline(Int8(block=512)), LAYOUT), (renamed, LAYOUT), (Pipeline(Int8()), other)):
        with pytest.raises(WireError, match=r"another codec|bytes; the codec makes"):
            codec.decode(payload, layout, CTX)


def test_an_empty_layout_makes_an_empty_frame() -> None:
    codec, layout = Pipeline(Ecsq()), Layout((), (), ())
    payload = codec.encode({}, layout, CTX)
    assert len(payload) == codec.min_len(layout) == codec.max_len(layout) == 27
    assert dict(codec.decode(payload, layout, CTX)) == {}


def test_the_estimate_of_size_counts_every_part(heavy: Heavy) -> None:
    for stage in (Int8(), Ecsq(1.0)):
        codec = Pipeline(stage)
        assert codec.size_estimate(LAYOUT) == pytest.approx(
            len(codec.encode(delta(heavy), LAYOUT, CTX)), rel=0.15
        )
