"""Wrong shares among many: all are found up to half of those to spare, and never others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.errors import CryptoError
from fedkit.secagg.primitives.decode import misfits
from fedkit.secagg.primitives.field import GF256, GF65536, Field
from fedkit.secagg.primitives.shamir import Shares, share, values
from fedkit.seeds import stream


def dealt(count: int, threshold: int, field: Field = GF65536, seed: int = 0) -> tuple[list[int], Shares]:
    """Holders in any order, and shares of 32 bytes."""
    random = stream(seed, "deal", count, threshold)
    xs = (random.choice(min(field.order, 2 * count), count) + 1).tolist()
    return xs, share(random.bytes(32), xs, threshold, random=random.bytes, field=field)


def spoilt(shares: Shares, wrong: list[int], seed: int, symbols: int = 16) -> Shares:
    """With other values at these places, in so many of their symbols."""
    made, random = shares.copy(), stream(seed, "errors")
    for at in wrong:
        where = random.choice(16, symbols) * 2
        made[at, where] ^= 1 + at % 255
    return made


@pytest.mark.parametrize("field", [GF65536, GF256])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_half_of_those_to_spare(field: Field, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 60))
    threshold, seed = data.draw(st.integers(1, count)), data.draw(st.integers(0, 99))
    xs, shares = dealt(count, threshold, field, seed)
    errors = data.draw(st.integers(0, (count - threshold) // 2))
    wrong = sorted(stream(seed, "who", errors).choice(count, errors).tolist())
    found = misfits(xs, spoilt(shares, wrong, seed, data.draw(st.integers(1, 16))), threshold, field=field)
    assert found is not None
    assert np.flatnonzero(found).tolist() == wrong


@pytest.mark.parametrize(("count", "threshold"), [(10, 7), (20, 14), (50, 34), (100, 67), (100, 10)])
def test_one_more_is_too_many(count: int, threshold: int) -> None:
    xs, shares = dealt(count, threshold)
    wrong = list(range((count - threshold) // 2 + 1))
    assert misfits(xs, spoilt(shares, wrong[1:], 1), threshold) is not None
    assert misfits(xs, spoilt(shares, wrong, 1), threshold) is None


def test_errors_that_differ_from_symbol_to_symbol() -> None:
    """Each symbol alone could be mended, all together have too many that are wrong."""
    xs, shares = dealt(10, 6)
    for at in range(3):
        shares[at, 2 * at] ^= 1
    assert misfits(xs, shares, 6) is None


def test_without_any_to_spare_all_fit() -> None:
    xs, shares = dealt(7, 7)
    found = misfits(xs, spoilt(shares, [2], 1), 7)
    assert found is not None
    assert not found.any()


def test_what_is_no_share() -> None:
    with pytest.raises(CryptoError, match="whole number of symbols"):
        misfits([1, 2, 3], np.zeros((3, 5), np.uint8), 2)
    with pytest.raises(CryptoError, match="the same x"):
        misfits([1, 2, 2], np.zeros((3, 4), np.uint8), 2)


@given(count=st.integers(2, 40), data=st.data())
def test_the_values_that_others_have(count: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, count - 1))
    xs, shares = dealt(count, threshold)
    made = values(xs[threshold:], xs[:threshold], shares[:threshold])
    assert (made == shares[threshold:]).all()
