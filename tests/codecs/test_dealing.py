"""The permutation before a rotation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.codecs.dealing import RUN, collect, deal


@given(st.integers(0, 40_000))
def test_collecting_undoes_dealing_and_nothing_is_lost(d: int) -> None:
    x = np.arange(d, dtype=np.float32)
    dealt = deal(x)
    assert np.array_equal(np.sort(dealt), x)
    assert np.array_equal(collect(dealt), x)


def test_a_vector_with_gaps_is_dealt_like_any_other() -> None:
    x = np.arange(40_000, dtype=np.float32)
    assert np.array_equal(deal(x[::2]), deal(x[::2].copy()))


@pytest.mark.parametrize("d", [20 * 4096, 20 * 4096 + 1234, 33_333])
def test_every_block_holds_a_like_share_of_every_part(d: int) -> None:
    x = np.repeat([0.0, 1.0], [d - d // 10, d // 10]).astype(np.float32)
    whole = d // 4096 * 4096
    shares = deal(x)[d - whole :].reshape(-1, 4096).mean(axis=1)
    assert np.abs(shares - 0.1).max() <= 0.1 * 0.1 + 2 * RUN / 4096
