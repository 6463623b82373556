"""Jobs as bytes: the round trip, what a device lacks, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit import jobfile, plugins, wire
from fedkit.aggregate import Grid
from fedkit.codecs import build
from fedkit.codecs.int8 import Int8
from fedkit.errors import ClientFailed, ConfigError, WireError
from fedkit.job import Job
from fedkit.messages import Failure
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.settings import SUITES, SecAgg
from fedkit.tensors import Layout
from fedkit_strategies import FedAvg, FedProx

LAYOUT = Layout(("conv.weight", "häh", "s"), ((2, 3, 1), (3,), ()), ("float64",) * 3)
EXTRAS = Layout(("c",), ((0,),), ("float32",))
JOB = Job(
    FedProx(mu=0.1),
    plugins.codec("tensors:exempt=*.bias+w?|rotate|ecsq:delta=0.0123"),
    plugins.codec("auto", "down"),
    LAYOUT,
    EXTRAS,
    Grid(max_weight=32),
    {"lr": 0.1, "epochs": 1, "optimizer": "sgd", "clip": True},
    2**62 + 1,
    True,
    "first",
    7,
    SecAgg(Policy(0.25, 0.5, 80, Mode.HONEST_SERVER, 4), 64, (6, 4), SUITES["chacha"], 0, True),
    ("häh", "loss"),
)


GOOD = jobfile.encode(JOB)
few = settings(max_examples=20, deadline=None)  # each looks up entry points, which takes some milliseconds


def changed(**parts: Any) -> bytes:
    """The bytes of JOB with some of its parts replaced."""
    content = json.loads(GOOD)
    for path, part in parts.items():
        *above, last = path.split("__")
        table = content
        for name in above:
            table = table[name]
        table[last] = part
    return json.dumps(content).encode()


def test_a_job_comes_back_with_its_id() -> None:
    back = jobfile.decode(jobfile.encode(JOB))
    assert back == JOB
    assert back.id == JOB.id
    assert jobfile.encode(back) == jobfile.encode(JOB)


def test_that_test_leaves_no_field_at_its_default() -> None:
    given = {f.name: f.default for f in dataclasses.fields(Job) if f.default is not dataclasses.MISSING}
    assert given
    assert [name for name, default in given.items() if getattr(JOB, name) == default] == []


@pytest.mark.parametrize("secagg", [None, SecAgg(), SecAgg(Policy(corrupt=0))])
def test_so_does_one_with_other_secure_aggregation(secagg: SecAgg | None) -> None:
    job = dataclasses.replace(JOB, secagg=secagg, metrics=())
    back = jobfile.decode(jobfile.encode(job))
    assert (back.secagg, back.id) == (secagg, job.id)


def test_every_registered_codec_comes_back() -> None:
    for name in plugins.names("fedkit.codecs"):
        kind = getattr(plugins.load("fedkit.codecs", name), "out_len", None)
        codec = plugins.codec(f"{name}|int8" if kind or name == "tensors" else name)
        back = jobfile.decode(jobfile.encode(dataclasses.replace(JOB, codec_up=codec)))
        assert back.codec_up.spec == codec.spec


@few
@given(
    st.dictionaries(
        st.text(),
        st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.text() | st.integers(-9, 9),
    ),
    st.integers(0, 2**63 - 1),
    st.sampled_from([1, 1.0, 3.5, 2**10]),
)
def test_any_settings_seed_and_weight_come_back(train: Any, seed: int, weight: float) -> None:
    grid = Grid(max_weight=weight)
    job = dataclasses.replace(JOB, settings=train, model_seed=seed, grid=grid)
    assert jobfile.decode(jobfile.encode(job)).id == job.id


@pytest.mark.parametrize(
    ("parts", "missing"),
    [
        ({"codec__up": "zip/1"}, "zip"),
        ({"codec__up": "rotate/1:shared=false|zip/1:level=3"}, "zip"),
        ({"codec__down": "/tmp/evil.py:Codec"}, "/tmp/evil.py:Codec"),
        ({"codec__up": "evil.py:Codec"}, "evil.py:Codec"),
        ({"codec__up": "zip" * 1000}, ("zip" * 100)[:256]),
        ({"codec__up": "é" * 9999}, "é" * 256),
        ({"strategy__name": "é" * 9999}, "é" * 256),
        ({"codec__up": ""}, ""),
        ({"codec__up": "ecsq/2:delta=4"}, "ecsq/2:delta=4"),
        ({"codec__up": "ecsq/1:delta=4,more=1"}, "ecsq/1:delta=4,more=1"),
        ({"codec__up": "rotate/1:shared=false"}, "rotate/1:shared=false"),
        ({"strategy__name": "scafold"}, "scafold"),
        ({"strategy__name": "evil.py:Strategy"}, "evil.py:Strategy"),
        ({"strategy__options": {"mu": 1.0, "nu": 2.0}}, "fedprox"),
        ({"strategy__options": {"mu": [1.0]}}, "fedprox"),
    ],
)
def test_what_is_not_installed_is_named_in_the_failure(parts: Any, missing: str, tmp_path: Path) -> None:
    with pytest.raises(ClientFailed) as caught:
        jobfile.decode(changed(**parts))
    assert (caught.value.code, caught.value.subject) == ("missing_plugin", missing)
    failure = jobfile.refusal(JOB.id, "ann", caught.value)
    back = wire.decode(wire.encode(failure))
    assert isinstance(back, Failure)
    assert (back.code, back.subject, back.key.job, back.key.client) == (
        "missing_plugin",
        missing,
        JOB.id,
        "ann",
    )
    assert back.detail == ""


@pytest.mark.parametrize(
    "name",
    [
        "{evil}:X",
        "ecsq:/..{evil}:X",
        "ecsq:/../../../../../../../..{evil}:X",
        "ecsq/..{evil}:X",
        "ecsq:delta=/..{evil}:X",
        "int8|ecsq:/..{evil}:X",
        "tensors:exempt=/..{evil}:X|int8",
        "fedprox:/..{evil}:X",
        " {evil}:X",
    ],
)
def test_a_file_that_a_server_names_is_never_run(name: str, tmp_path: Path) -> None:
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for part in ("codec__up", "codec__down", "strategy__name"):
        with pytest.raises((ClientFailed, WireError)):
            jobfile.decode(changed(**{part: name.format(evil=evil)}))
    assert not (tmp_path / "ran").exists()


def test_nor_is_one_whose_name_is_registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setattr(plugins, "names", lambda group: {f"{evil}:X": ("", "")})
    for part in ("codec__up", "strategy__name"):
        with pytest.raises(ClientFailed):
            jobfile.decode(changed(**{part: f"{evil}:X"}))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"version": 2}, "version 2, this side speaks version 1"),
        ({"more": 1}, "fields are"),
        ({"codec": []}, "codec is not an object"),
        ({"codec__base": "next"}, "base is neither last nor first"),
        ({"codec__feedback": 1}, "feedback neither true nor false"),
        ({"codec__up": 3}, "codec up is not a string"),
        ({"codec__up": "int8/1"}, "not written with all its parameters"),
        ({"seed": "00"}, "not 16 hex digits"),
        ({"seed": 7}, "seed is not a string"),
        ({"layout": [["w", "float32", [2]], ["w", "float32", [2]]]}, "repeated"),
        ({"layout": [["w", "int8", [2]]]}, "must all be float32 or all float64"),
        ({"layout": [["w", "float32", [2]], ["b", "float64", [2]]]}, "must all be float32 or all float64"),
        ({"layout": [["w", "float32", [-2]]]}, "dimension"),
        ({"layout": [["w", "float32", [2**40, 2**40]]]}, "absurd"),
        ({"cohort": 0}, "cohort is not an integer in"),
        ({"grid__n_max": 0}, "n_max is not an integer in"),
        ({"grid__max_weight": -1}, "grid: aggregate.max_weight = -1: must be in"),
        ({"grid__max_weight": True}, "grid is not a number"),
        ({"grid__max_delta": 1e308}, "grid"),
        ({"settings": {"lr": [1]}}, "setting lr is not a number"),
        ({"settings__lr": 0.2}, "its content has id"),
        ({"metrics": "loss"}, "metrics is not a list"),
        ({"metrics": [1]}, "metric is not a string"),
        ({"metrics": ["loss", "loss"]}, "a name comes twice"),
        ({"metrics": ["x" * 129]}, "at most 128 are allowed"),
        ({"metrics": [str(n) for n in range(257)]}, "257 metrics"),
        ({"metrics": ["loss"]}, "its content has id"),
        ({"secagg": 1}, "secagg is not an object"),
        ({"secagg": {}}, "fields are"),
        ({"secagg": None}, "its content has id"),
        ({"secagg__mode": "off"}, "mode 'off'"),
        ({"secagg__suite": "rot13"}, "suite 'rot13'"),
        ({"secagg__verify": 1}, "verify"),
        ({"secagg__width": 16}, "secagg.width = 16: must be 32 or 64"),
        ({"secagg__retries": -1}, "retries is not an integer"),
        ({"secagg__retries": 101}, "secagg.retries = 101"),
        ({"secagg__explicit": [6]}, "explicit is not a list of 2"),
        ({"secagg__explicit": [6.0, 4]}, "explicit is not an integer"),
        ({"secagg__n_min": 2}, "smallest=2"),
        ({"secagg__sigma": 129}, "sigma is from 1 to 128"),
        ({"secagg__dropout": 1.0}, "dropout is a share"),
        ({"secagg__corrupt": "a"}, "is not a number"),
        ({"secagg__corrupt": 0.3}, "its content has id"),
        ({"codec__feedback": False}, "its content has id"),
        ({"id": "0" * 16}, "says that its id is '0000000000000000'"),
    ],
)
def test_a_job_that_nobody_wrote_is_refused(parts: Any, text: str) -> None:
    with pytest.raises(WireError, match=text):
        jobfile.decode(changed(**parts))


@few
@given(st.binary(max_size=60), st.integers(0, 600), st.integers(1, 255))
def test_damage_is_refused_and_nothing_else_is_raised(noise: bytes, place: int, flip: int) -> None:
    good = GOOD
    flipped = bytearray(good)
    flipped[place % len(good)] ^= flip
    for bad in (noise, good[: place % len(good)], bytes(flipped)):
        with pytest.raises((WireError, ClientFailed)):
            jobfile.decode(bad)


def test_a_job_beyond_the_limit_is_not_read() -> None:
    with pytest.raises(WireError, match="over the limit"):
        jobfile.decode(b" " * (jobfile.LIMIT + 1))


@dataclass(frozen=True)
class Unregistered(FedAvg):
    """Nobody else can find it."""


@dataclass(frozen=True)
class Zip(Int8):
    id = "zip"


@pytest.mark.parametrize(
    "change",
    [
        {"strategy": Unregistered()},
        {"codec_up": build([Zip()], "zip")},
        {"strategy": FedProx(mu=1)},  # an int where the annotation says float: another id
        {"settings": {"lr": float("nan")}},
    ],
)
def test_a_job_that_devices_could_not_make_is_a_config_error(change: Any) -> None:
    with pytest.raises(ConfigError, match="devices cannot be told of this job"):
        jobfile.encode(dataclasses.replace(JOB, **change))
