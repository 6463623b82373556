"""Codecs that raise or return what they must not: refused before round 0, or a failure of one client."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from fedkit import plugins, run
from fedkit.codecs import Codec, CodecContext
from fedkit.codecs.none import Plain
from fedkit.codecs.ring_rotq import RingRotQ
from fedkit.coding import decoded, demand_lengths, demand_traits, most_bytes, odd_payload
from fedkit.errors import ConfigError, RunFailed, WireError
from fedkit.tensors import Layout, Tensors
from fedkit_clients import MLP, NumpyWorkload

LAYOUT = Layout(("w",), ((40,),), ("float32",))
ZERO = LAYOUT.view(np.zeros(40, np.float32))


class Whole(Plain):
    """Plain under another name, so that it is called as a stranger's codec is."""

    id: ClassVar[str] = "whole"


def odd(**parts: Any) -> Codec:
    """A codec whose class has other `parts`; those that are exceptions are raised."""

    def raising(error: BaseException) -> Any:
        def call(*_: Any) -> Any:
            raise error

        return call

    made = {name: raising(part) if isinstance(part, BaseException) else part for name, part in parts.items()}
    for name in ("unbiased", "spec", "contractive"):
        if name in parts and isinstance(parts[name], BaseException):
            made[name] = property(made[name])
    codec: Codec = type("Odd", (Whole,), made)()
    return codec


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        (odd(unbiased=IndexError("boom")), "codec.up: a trait of Odd raised IndexError: boom"),
        (odd(contractive=SystemExit(3)), "codec.up: a trait of Odd raised SystemExit: 3"),
        (odd(spec=5), "codec.up: Odd.spec is 5: a string"),
        (odd(id=""), "codec.up: Odd.id is '': a string"),
        (odd(id="\ud800"), "codec.up: Odd.id is "),
        (odd(spec="x" * 5000), "codec.up: Odd.spec is 'xxx"),
    ],
)
def test_traits_are_asked_for_once_and_in_time(codec: Codec, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        demand_traits(codec, "codec.up")
    with pytest.raises(ConfigError, match=text):
        go(codec)


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        (odd(max_len=IndexError("boom")), "codec.up: a length of Odd raised IndexError: boom"),
        (
            odd(max_len=lambda *_: "1"),
            "codec.up: Odd says that its payloads have '1' to '1' bytes: whole numbers",
        ),
        (odd(max_len=lambda *_: 1.5), "whole numbers are due"),
        (odd(max_len=lambda *_: -1), "whole numbers are due"),
        (odd(max_len=lambda *_: 10**15), "Odd.max_len is 1000000000000000 for a delta of"),
        (odd(min_len=lambda *_: 10**9), "Odd says that its payloads have 1000000000 to"),
    ],
)
def test_so_are_lengths(codec: Codec, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        demand_lengths(codec, "codec.up", LAYOUT, 3)
    with pytest.raises(ConfigError, match=text):
        go(codec)


def test_a_ring_too_narrow_for_the_cohort_is_refused_before_the_first_round() -> None:
    with pytest.raises(ConfigError, match="width = 4 is too small for sums of 12 clients: use width=5"):
        go("ring-rotq:width=4,margin=2.2", clients=12)
    with pytest.raises(
        ConfigError, match="too small for sums of 99999999 clients: use a smaller margin, or ask"
    ):
        demand_lengths(RingRotQ(16, 8.0), "codec.up", LAYOUT, 99_999_999)


def test_every_bound_of_ours_is_below_the_limit() -> None:
    tiny = Layout(("a", "b"), ((1,), ()), ("float32", "float32"))
    for name in plugins.names("fedkit.codecs"):
        try:
            codec = plugins.codec(name)
        except ConfigError:
            codec = plugins.codec(f"{name}|int8")
        for layout in (tiny, LAYOUT, Layout(("w",), ((10**6,),), ("float32",))):
            demand_lengths(codec, "codec.up", layout, 50)
            assert codec.max_len(layout) < most_bytes(layout) / 2


def test_what_encode_returns_is_looked_at() -> None:
    codec = Whole()
    assert odd_payload(codec, LAYOUT, bytes(160)) == ""
    assert odd_payload(codec, LAYOUT, None) == "made NoneType, not bytes"
    assert odd_payload(codec, LAYOUT, bytearray(160)) == "made bytearray, not bytes"
    assert odd_payload(codec, LAYOUT, bytes(161)) == "made 161 bytes, and says 160 to 160"


def test_whatever_decode_does_is_a_bad_payload() -> None:
    for bad, text in (
        (IndexError("boom"), "raised IndexError: boom"),
        (SystemExit(0), "raised SystemExit: 0"),
    ):
        with pytest.raises(WireError, match=f"codec 'whole' {text}"):
            decoded(odd(decode=bad), bytes(160), LAYOUT, CodecContext())
    with pytest.raises(WireError, match="codec 'whole' returned 1, not a mapping"):
        decoded(odd(decode=lambda *_: 1), bytes(160), LAYOUT, CodecContext())
    with pytest.raises(WireError, match="payload has 3 bytes"):
        decoded(Whole(), bytes(3), LAYOUT, CodecContext())


def go(codec: Codec | str, clients: int = 3, **settings: Any) -> Any:
    x, y = np.eye(36, 8, dtype=np.float32), np.arange(36) % 3
    data = {f"c{i:02}": (x[i::clients], y[i::clients]) for i in range(clients)}
    work = NumpyWorkload(MLP(8, (6,), 3), data, test=(x, y))
    train = {"epochs": 1, "batch": 5, "lr": 0.2}
    return run("fedavg", work, rounds=2, train=train, codec_up=codec, **settings)


class Sometimes(Whole):
    """Does what `how` says to some of the clients."""

    def __init__(self, how: str) -> None:
        self.how = how

    def encode(self, delta: Tensors, layout: Layout, ctx: CodecContext) -> Any:
        payload = super().encode(delta, layout, ctx)
        bad = {"none": None, "text": "abc", "long": payload + b"."}
        return bad.get(self.how, payload) if ctx.seed % 3 == 0 else payload

    def decode(self, payload: bytes, layout: Layout, ctx: CodecContext) -> Any:
        if self.how == "decode" and ctx.seed % 3 == 0:
            raise IndexError("boom")
        return 1 if self.how == "one" and ctx.seed % 3 == 0 else super().decode(payload, layout, ctx)


@pytest.mark.parametrize(
    ("how", "outcome", "text"),
    [
        ("none", "failed", "codec: 'whole' made NoneType, not bytes"),
        ("text", "failed", "codec: 'whole' made str, not bytes"),
        ("long", "failed", "bytes, and says"),
        ("decode", "refused", "codec 'whole' raised IndexError: boom"),
        ("one", "refused", "codec 'whole' returned 1"),
    ],
)
def test_a_codec_that_fails_for_some_costs_their_updates_and_not_the_run(
    how: str, outcome: str, text: str
) -> None:
    rounds = go(Sometimes(how), clients=9).history.rounds
    fates = [fate for record in rounds for fate in record.fates.values()]
    bad = [fate for fate in fates if fate.outcome != "counted"]
    assert 0 < len(bad) < len(fates)
    assert all(fate.outcome == outcome and text in fate.why for fate in bad)


def test_one_that_fails_for_all_ends_the_run_with_its_name() -> None:
    with pytest.raises(RunFailed, match="codec 'whole' raised IndexError: boom"):
        go(odd(decode=IndexError("boom")))
    with pytest.raises(RunFailed, match="'whole' made NoneType"):
        go(odd(encode=lambda *_: None))
