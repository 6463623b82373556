"""Sharing: published and frozen vectors, every subset, what is refused, and that t - 1 tell nothing."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.errors import CryptoError
from fedkit.secagg.primitives.field import GF256, GF65536, Field
from fedkit.secagg.primitives.shamir import rebuild, share
from fedkit.secagg.primitives.suite import Random
from fedkit.seeds import stream

FROZEN = Path(__file__).parents[2] / "vectors" / "secagg" / "shamir-gf65536.json"
FIELDS = (GF256, GF65536)
both = pytest.mark.parametrize("field", FIELDS, ids=["GF(2^8)", "GF(2^16)"])


def always(drawn: bytes) -> Random:
    return lambda count: drawn


def test_the_shares_of_draft_mcgrew_tss_03_section_9() -> None:
    shares = [bytes.fromhex("B9FA07E185"), bytes.fromhex("F5409B4511")]
    rows = np.array([list(row) for row in shares], np.uint8)
    assert rebuild([1, 2], rows, 2, field=GF256).tobytes() == b"test\0"
    slope = bytes(a ^ b for a, b in zip(shares[0], b"test\0", strict=True))
    assert np.array_equal(share(b"test\0", [1, 2], 2, random=always(slope), field=GF256), rows)


def test_frozen_shares_in_gf_65536() -> None:
    """Made once by arithmetic bit by bit; other bytes here are another protocol."""
    for case in json.loads(FROZEN.read_text()):
        secret, drawn = bytes.fromhex(case["secret"]), bytes.fromhex(case["random"])
        made = share(secret, case["xs"], case["threshold"], random=always(drawn))
        assert [row.tobytes().hex() for row in made] == case["shares"]
        t = case["threshold"]
        assert rebuild(case["xs"][-t:], made[-t:], t).tobytes() == secret


@both
def test_any_threshold_many_shares_rebuild_in_any_order(field: Field) -> None:
    secret, xs = stream(1, "secret").bytes(32), [7, 1, 200, 3, 90]
    shares = share(secret, xs, 3, field=field)
    assert shares.shape == (5, 32)
    for chosen in itertools.permutations(range(5), 3):
        some = list(chosen)
        assert rebuild(np.array(xs)[some], shares[some], 3, field=field).tobytes() == secret


@both
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_shares_rebuild(field: Field, data: st.DataObject) -> None:
    xs = data.draw(st.lists(st.integers(1, field.order), min_size=1, max_size=40, unique=True))
    threshold = data.draw(st.integers(1, len(xs)))
    secret = data.draw(st.binary(min_size=1, max_size=20)) * 2
    shares = share(secret, xs, threshold, field=field)
    assert rebuild(xs, shares, threshold, field=field).tobytes() == secret


def test_one_share_less_is_uniform_whatever_the_secret() -> None:
    """All 256 lines through a secret: the share at x = 5 takes each value once."""
    for secret in (b"\0", b"\x5a"):
        seen = [share(secret, [5, 6], 2, random=always(bytes([c])), field=GF256)[0, 0] for c in range(256)]
        assert set(Counter(seen).values()) == {1}
        assert len(seen) == 256


def test_fewer_shares_than_the_threshold_give_something_else() -> None:
    secret = stream(1, "secret").bytes(32)
    shares = share(secret, range(1, 11), 7)
    assert rebuild(range(1, 7), shares[:6], 6).tobytes() != secret


def test_two_secrets_at_once_are_two_secrets() -> None:
    a, b = stream(0, "a").bytes(32), stream(0, "b").bytes(32)
    shares = share(a + b, range(1, 6), 3)
    assert rebuild([1, 2, 3], shares[:3, :32], 3).tobytes() == a
    assert rebuild([2, 4, 5], shares[[1, 3, 4], 32:], 3).tobytes() == b


def test_many_owners_with_the_same_holders_are_rebuilt_at_once() -> None:
    secrets = [stream(i, "secret").bytes(32) for i in range(9)]
    xs = [2, 3, 5, 7, 11]
    rows = np.stack([share(secret, xs, 4) for secret in secrets], axis=1)
    assert rows.shape == (5, 9, 32)
    assert [row.tobytes() for row in rebuild(xs, rows, 4)] == secrets


def test_many_owners_with_holders_of_their_own_are_rebuilt_at_once() -> None:
    secrets = [stream(i, "secret").bytes(32) for i in range(9)]
    xs = np.stack([stream(i, "xs").permutation(1000)[:5] + 1 for i in range(9)], axis=1)
    rows = np.stack([share(s, xs[:, i].tolist(), 4) for i, s in enumerate(secrets)], axis=1)
    assert [row.tobytes() for row in rebuild(xs, rows, 4)] == secrets
    wrong = rows.copy()
    wrong[4, 3, 0] ^= 1
    with pytest.raises(CryptoError, match="not on one polynomial"):
        rebuild(xs, wrong, 4)


@pytest.mark.parametrize("at", range(6))
def test_a_wrong_share_among_more_than_enough_is_noticed(at: int) -> None:
    shares = share(bytes(32), range(1, 7), 4)
    shares[at, 31] ^= 0x80
    with pytest.raises(CryptoError, match="not on one polynomial of 4"):
        rebuild(range(1, 7), shares, 4)


def test_a_threshold_that_is_too_low_is_noticed_one_too_high_does_no_harm() -> None:
    secret = stream(1, "secret").bytes(32)
    shares = share(secret, range(1, 7), 4)
    with pytest.raises(CryptoError, match="not on one polynomial of 3"):
        rebuild(range(1, 7), shares, 3)
    assert rebuild(range(1, 7), shares, 5).tobytes() == secret


@both
@pytest.mark.parametrize(
    ("xs", "reason"),
    [
        ([1, 2, 2], "the same x"),
        ([0, 1, 2], "an x is from 1"),
        ([-1, 1, 2], "an x is from 1"),
        ([], "no share"),
    ],
)
def test_zero_doubled_and_missing_x_are_refused(field: Field, xs: list[int], reason: str) -> None:
    with pytest.raises(CryptoError, match=reason):
        share(bytes(32), xs, 1, field=field)
    with pytest.raises(CryptoError, match=reason):
        rebuild(xs, np.zeros((len(xs), 32), np.uint8), 1, field=field)


@both
def test_an_x_beyond_the_field_is_refused_not_wrapped(field: Field) -> None:
    for x in (field.order + 1, field.order + 2, 2**40):
        with pytest.raises(CryptoError, match="an x is from 1"):
            share(bytes(32), [1, x], 1, field=field)
    assert share(bytes(32), [1, field.order], 2, field=field).shape == (2, 32)


def test_a_doubled_x_of_one_owner_among_many_is_refused() -> None:
    with pytest.raises(CryptoError, match="the same x"):
        rebuild([[1, 1], [2, 1]], np.zeros((2, 2, 32), np.uint8), 2)


@pytest.mark.parametrize("threshold", [-1, 0, 4])
def test_thresholds_that_cannot_be_met(threshold: int) -> None:
    with pytest.raises(CryptoError, match=f"threshold {threshold} of 3"):
        share(bytes(32), [1, 2, 3], threshold)
    with pytest.raises(CryptoError, match=f"3 shares for 3 holders: {threshold} are needed"):
        rebuild([1, 2, 3], np.zeros((3, 32), np.uint8), threshold)


def test_shapes_and_lengths_that_do_not_fit() -> None:
    with pytest.raises(CryptoError, match="31 bytes"):
        share(bytes(31), [1, 2], 2)
    with pytest.raises(CryptoError, match="0 bytes"):
        share(b"", [1, 2], 2)
    with pytest.raises(CryptoError, match="shares of 31 bytes"):
        rebuild([1, 2], np.zeros((2, 31), np.uint8), 2)
    with pytest.raises(CryptoError, match="2 shares for 3 holders"):
        rebuild([1, 2, 3], np.zeros((2, 32), np.uint8), 2)
    with pytest.raises(CryptoError, match="do not fit"):
        rebuild([[1, 2], [3, 4]], np.zeros((2, 3, 32), np.uint8), 2)
    with pytest.raises(ValueError, match="random source"):
        share(bytes(32), [1, 2], 2, random=lambda count: bytes(count + 1))


def test_shares_come_from_the_random_source() -> None:
    one, two = (share(bytes(32), [1, 2, 3], 2, random=stream(5, "s").bytes) for _ in range(2))
    assert np.array_equal(one, two)
    assert not np.array_equal(share(bytes(32), [1, 2, 3], 2), one)
