"""Whole runs with codecs: every one works, none changes nothing, a restart changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from fedkit import ConfigError, Result, RoundPolicy, plugins, run
from fedkit.codecs import Codec, CodecContext, require_downlink
from fedkit.tensors import Layout, Tensors
from fedkit_clients import MLP, NumpyWorkload
from fedkit_strategies import FedAvg

POLICY = RoundPolicy(cohort=4)


def workload() -> NumpyWorkload:
    """Six clients and 4,810 parameters, most of them in one tensor."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 64)).astype(np.float32)
    y = (x @ rng.normal(size=(64, 10))).argmax(axis=1)
    clients = {f"c{i}": (x[i::6], y[i::6]) for i in range(6)}
    return NumpyWorkload(MLP(64, (64,), 10), clients, test=(x, y))


def go(rounds: int = 1, policy: RoundPolicy | None = POLICY, **settings: Any) -> Result:
    train = {"epochs": 2, "batch": 5, "lr": 0.2}
    return run("fedavg", workload(), rounds=rounds, policy=policy, train=train, **settings)


def usable() -> list[str]:
    """A spec for each registered codec; one that only stands before others, before int8."""
    specs = []
    for name in plugins.names("fedkit.codecs"):
        try:
            plugins.codec(name)
        except ConfigError:
            name += "|int8"
        specs.append(name)
    return [*specs, "auto"]


@pytest.mark.parametrize("spec", usable())
def test_every_codec_carries_a_run_up_and_where_it_may_down(spec: str) -> None:
    down = plugins.codec(spec, "down")
    try:
        require_downlink(down)
    except ConfigError:
        with pytest.raises(ConfigError, match=r"codec\.down"):
            go(codec_down=spec)
        down = plugins.codec("none")
    result = go(2, codec_up=spec, codec_down=down)
    assert result.summary["clients_counted"] == 8
    assert result.summary["metrics"]["loss"] < 1.02 * result.summary["initial"]["loss"]
    if spec != "none":
        assert result.summary["bytes_up"] < result.summary["bytes_up_float32"]
    if down.id != "none":
        assert result.summary["bytes_down"] < result.summary["bytes_down_float32"]


@dataclass(frozen=True)
class Verbatim(Codec):
    """Every tensor by numpy's own writer: nothing of fedkit touches a bit."""

    id: ClassVar[str] = "verbatim"
    unbiased: ClassVar[bool] = True
    fixed_size: ClassVar[bool] = False

    def encode(self, delta: Tensors, layout: Layout, ctx: CodecContext) -> bytes:
        return b"".join(np.asarray(delta[name], "<f4").tobytes() + b"----" for name in layout.names)

    def decode(self, payload: bytes, layout: Layout, ctx: CodecContext) -> Tensors:
        made, at = {}, 0
        for name, shape, size in zip(layout.names, layout.shapes, layout.sizes, strict=True):
            made[name] = np.frombuffer(payload, "<f4", size, at).reshape(shape).copy()
            at += 4 * size + 4
        return made

    def max_len(self, layout: Layout) -> int:
        return 2 * layout.nbytes + 4 * len(layout.names)


def test_none_is_no_compression_bit_for_bit() -> None:
    plain, verbatim = go(3, codec_up="none"), go(3, codec_up=Verbatim())
    assert plain.summary["model_sha256"] == verbatim.summary["model_sha256"]
    assert plain.summary["bytes_up"] != verbatim.summary["bytes_up"]


def test_a_lossy_codec_is_another_model() -> None:
    assert go(codec_up="int8").summary["model_sha256"] != go().summary["model_sha256"]


@pytest.mark.parametrize(
    ("up", "feedback"),
    [
        ("topk:share=0.05|int8", "on"),
        ("sign", "on"),
        ("ecsq", "off"),
        ("eden:keep=0.5", "off"),
        ("adaptive", "off"),
    ],
)
@pytest.mark.parametrize("base", ["last", "first"])
def test_a_run_that_was_continued_ends_bit_for_bit_as_one_that_was_not(
    tmp_path: Path, up: str, feedback: Literal["on", "off"], base: Literal["last", "first"]
) -> None:
    ways: dict[str, Any] = {"codec_up": up, "codec_down": "auto", "feedback": feedback, "down_base": base}
    whole = go(4, **ways)
    for rounds in (1, 3, 4):
        parts = go(rounds, out=tmp_path / "run", resume=rounds > 1, **ways)
    for key in ("model_sha256", "bytes_up", "bytes_down", "metrics", "job"):
        assert parts.summary[key] == whole.summary[key]


def test_error_feedback_is_on_only_where_all_take_part() -> None:
    """What a client that comes rarely remembers is stale; `on` overrules that."""
    everyone = RoundPolicy()
    for spec, policy, kept in (
        ("sign", everyone, True),
        ("sign", POLICY, False),
        ("sign", RoundPolicy(over_select=1.5), False),
        ("ecsq", everyone, False),
    ):
        job = {f: go(codec_up=spec, policy=policy, feedback=f).summary["job"] for f in ("auto", "off")}
        assert (job["auto"] != job["off"]) == kept
        if spec == "sign":
            asked = go(codec_up=spec, policy=policy, feedback="on").summary["job"]
            assert (job["auto"] == asked) == kept


def test_error_feedback_finds_what_a_biased_codec_leaves_out() -> None:
    """All clients in every round: with feedback top-k ends nearer to the run without a codec."""
    left = {
        feedback: go(12, None, codec_up="topk:share=0.02|int8", feedback=feedback).summary["metrics"]["loss"]
        for feedback in ("on", "off")
    }
    assert left["on"] < left["off"]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"codec_up": "ecsq", "feedback": "on"},
            "is unbiased, and error feedback with an unbiased scale diverges",
        ),
        ({"codec_up": "clip|sign", "feedback": "on"}, "is not contractive.*turn error feedback off"),
        ({"codec_down": "eden"}, r"codec\.down = 'eden' does not decode to the same bits on every platform"),
        ({"codec_down": "adaptive"}, r"codec\.down = 'adaptive'"),
        ({"codec_up": "ecqs"}, "unknown codec 'ecqs'; did you mean 'ecsq'"),
        ({"codec_down": "ecsq:detla=1"}, "detla: unknown key; did you mean 'delta'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_first_round(settings: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        go(**settings)


def test_clients_train_from_the_model_that_they_hold() -> None:
    """With a lossy codec down the start of training is what was decoded, not the server's model."""
    starts: list[Tensors] = []

    class Watch(FedAvg):
        def begin(self, task: Any, memory: Any) -> Any:
            starts.append(task.model)
            return super().begin(task, memory)

    seen: list[Tensors] = []

    class Keep:
        def evaluated(self, event: Any) -> None:
            seen.append({name: np.array(array) for name, array in event.model.items()})

    train = {"epochs": 1, "batch": 5, "lr": 0.2}
    run(Watch(), workload(), rounds=2, train=train, codec_down="sign", observers=[Keep()])
    first, second = starts[0], starts[-1]
    same = [
        all(np.array_equal(start[n], model[n]) for n in model)
        for start, model in zip((first, second), seen, strict=False)
    ]
    assert same == [True, False]  # version 1 is made from the seed; version 2 came through the codec
