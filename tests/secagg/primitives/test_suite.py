"""Suites and random sources."""

from __future__ import annotations

import os

import pytest

from fedkit.secagg.primitives.suite import RANDOM, Suite, draw


def test_numbers_of_suites_and_their_key_lengths_are_part_of_the_wire() -> None:
    assert [(suite.value, suite.name, suite.mask_bytes) for suite in Suite] == [
        (1, "AES", 16),
        (2, "CHACHA", 32),
    ]


def test_secrets_come_from_the_operating_system() -> None:
    assert RANDOM is os.urandom
    assert len(draw(RANDOM, 32)) == 32


@pytest.mark.parametrize("given", [0, 31, 33])
def test_a_source_that_gives_another_number_of_bytes_is_refused(given: int) -> None:
    with pytest.raises(ValueError, match=f"{given} bytes instead of 32"):
        draw(lambda _: bytes(given), 32)
