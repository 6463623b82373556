"""The header: there and back, strict reading, and what it says about k and t."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import ConfigError, WireError
from fedkit.secagg.header import Encoding, Header
from fedkit.secagg.parameters import Mode, Policy, choose
from fedkit.secagg.primitives.suite import Suite

HEADER = Header(
    suite=Suite.AES,
    sid=bytes(range(32)),
    job="ab12",
    round=3,
    kind="train",
    attempt=1,
    model=b"m" * 32,
    encoding=Encoding(1000, 32, 5, '{"encoder":"fixed"}'),
    policy=Policy(sigma=40, smallest=3),
    clients=100,
    explicit=None,
    deadlines=(1.0, 2.0, 3.0, 4.0, 5.5),
    identities="roster",
    server=b"s" * 32,
)
OTHERS: dict[str, Any] = {
    "suite": Suite.CHACHA,
    "sid": b"x" * 32,
    "job": "é",
    "round": 4,
    "kind": "evaluate",
    "attempt": 0,
    "model": b"n" * 32,
    "encoding": Encoding(0, 64, 1, ""),
    "policy": Policy(0.1, 0.2, 80, Mode.HONEST_SERVER, 5),
    "clients": 99,
    "explicit": (28, 18),
    "deadlines": (0.0,) * 5,
    "identities": "none",
    "server": b"t" * 32,
}


def other(name: str) -> Header:
    return replace(HEADER, **{name: OTHERS[name]})


def test_every_field_has_another_value_here() -> None:
    assert [f.name for f in fields(Header)] == list(OTHERS)


@pytest.mark.parametrize("name", OTHERS)
def test_there_and_back_and_every_field_is_in_the_digest(name: str) -> None:
    made = other(name)
    assert Header.from_bytes(made.to_bytes()) == made
    assert made.digest != HEADER.digest


def test_the_bytes_are_what_they_were() -> None:
    """A change here is a new version of the protocol."""
    assert len(HEADER.to_bytes()) == 16 + 3 + 96 + 5 + 12 + 11 + 2 + 19 + 22 + 8 + 40
    assert HEADER.digest.hex() == "36f148de6945f260d7a1aca553f9e986901f531be02c38995c697d0a931356f4"


@pytest.mark.parametrize(
    "change",
    [
        {"sid": b"short"},
        {"model": b""},
        {"server": b"s" * 33},
        {"job": ""},
        {"job": "x" * 256},
        {"round": -1},
        {"attempt": 1 << 32},
        {"clients": 0},
        {"clients": 65_536},
        {"explicit": (0, 5)},
        {"kind": "test"},
        {"identities": "some"},
        {"deadlines": (1.0, 2.0)},
        {"deadlines": (1.0, 2.0, 3.0, 4.0, float("nan"))},
        {"deadlines": (2.0, 1.0, 3.0, 4.0, 5.0)},
    ],
)
def test_what_no_header_has(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        replace(HEADER, **change)


@pytest.mark.parametrize(
    ("words", "width", "tail", "spec"),
    [(-1, 32, 1, ""), (1, 12, 1, ""), (1, 32, 0, ""), (1 << 41, 32, 1, ""), (1, 32, 1, "x" * (1 << 16))],
)
def test_what_no_encoding_is(words: int, width: int, tail: int, spec: str) -> None:
    with pytest.raises(ConfigError):
        Encoding(words, width, tail, spec)


def test_bytes_of_a_vector() -> None:
    assert [Encoding(10, width, 1, "").vector_bytes for width in (8, 16, 32, 64)] == [10, 20, 40, 80]


def test_every_cut_and_extra_byte_is_refused() -> None:
    data = HEADER.to_bytes()
    for cut in range(len(data)):
        with pytest.raises(WireError):
            Header.from_bytes(data[:cut])
    with pytest.raises(WireError):
        Header.from_bytes(data + b"\0")


@given(st.integers(16, len(HEADER.to_bytes()) - 1), st.integers(0, 255))
def test_changed_bytes_are_refused_or_read_as_what_they_say(at: int, value: int) -> None:
    bad = bytearray(HEADER.to_bytes())
    bad[at] = value
    try:
        made = Header.from_bytes(bytes(bad))
    except WireError:
        return
    assert made.to_bytes() == bytes(bad)


def test_parameters_are_chosen_for_those_who_advertised() -> None:
    assert HEADER.parameters(90) == choose(90, HEADER.policy)
    made = replace(HEADER, explicit=(28, 18)).parameters(100)
    assert (made.neighbours, made.threshold, made.complete) == (28, 18, False)


def test_neighbours_given_by_hand_are_at_most_all() -> None:
    made = replace(HEADER, explicit=(8, 6)).parameters(8)
    assert (made.neighbours, made.threshold, made.complete) == (7, 6, True)


@pytest.mark.parametrize(
    ("k", "t", "why"), [(10, 6, "secrecy fails"), (28, 14, "threshold=14"), (27, 18, "even")]
)
def test_parameters_given_by_hand_keep_the_policy(k: int, t: int, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        replace(HEADER, explicit=(k, t)).parameters(100)


@pytest.mark.parametrize(("k", "t"), [(2, 2), (11, 6)])
def test_parameters_given_by_hand_for_a_few_clients_bear_a_corrupt_one(k: int, t: int) -> None:
    """5 % of 11 clients are nobody, for whom any t would do."""
    with pytest.raises(ConfigError, match="secrecy fails"):
        replace(HEADER, explicit=(k, t)).parameters(11)
    assert replace(HEADER, explicit=(k, t), policy=Policy(corrupt=0.0)).parameters(11).threshold == t
    assert replace(HEADER, explicit=(10, 7)).parameters(11).colluding == 2
    assert replace(HEADER, explicit=(2, 2)).parameters(3).complete
