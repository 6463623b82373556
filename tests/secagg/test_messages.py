"""Every stage message there and back, and bytes that no message has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import WireError
from fedkit.secagg.closing import Agreed, Masked, Opened, Quorum, Survivors
from fedkit.secagg.frames import PREFIX, Flags, Reader, client_bytes, frame, packed, sized, statement
from fedkit.secagg.messages import Advert, Boxes, Inbox, Opening, Roster, Stage, kind_of


def flags(text: str) -> Flags:
    return np.array([c == "1" for c in text], np.bool_)


def block(size: int, mark: int) -> bytes:
    return bytes([mark]) * size


ADVERT = Advert("a", block(32, 1), block(32, 2), block(32, 3), block(32, 4), b"", block(64, 5))
CERTIFIED = Advert("bé", block(32, 1), block(32, 2), block(32, 3), block(32, 4), block(64, 6), block(64, 5))
ROSTER = Roster(("a", "bé", "c"), (block(32, 1), block(32, 2), block(32, 3)), (ADVERT, CERTIFIED))


@dataclass(frozen=True)
class Case:
    """A message, how it is read, its length in bytes, and readings with other expectations."""

    data: bytes
    read: Callable[[bytes], bytes]
    size: int
    wrong: Sequence[Callable[[bytes], object]] = ()


CASES = {
    "opening": Case(
        Opening(b"header", block(64, 1)).to_bytes(),
        lambda data: Opening.from_bytes(data).to_bytes(),
        16 + 4 + 6 + 64,
    ),
    "opening, unsigned": Case(
        Opening(b"header", b"").to_bytes(), lambda data: Opening.from_bytes(data).to_bytes(), 16 + 4 + 6
    ),
    "advert": Case(
        ADVERT.to_bytes(), lambda data: Advert.from_bytes(data).to_bytes(), 16 + 2 + 4 * 32 + 1 + 64
    ),
    "certified advert": Case(
        CERTIFIED.to_bytes(), lambda data: Advert.from_bytes(data).to_bytes(), 16 + 4 + 4 * 32 + 1 + 64 + 64
    ),
    "roster": Case(
        ROSTER.to_bytes(),
        lambda data: Roster.from_bytes(data, 3).to_bytes(),
        16 + 2 + (2 + 4 + 2) + 3 * 32 + 2 + (2 + 211) + (2 + 277),
        [lambda data: Roster.from_bytes(data, 2)],
    ),
    "boxes": Case(
        Boxes((block(80, 1), block(80, 2)), block(16, 3)).to_bytes(),
        lambda data: Boxes.from_bytes(data, 2).to_bytes(),
        16 + 160 + 16,
        [lambda data: Boxes.from_bytes(data, 1), lambda data: Boxes.from_bytes(data, 3)],
    ),
    "inbox": Case(
        Inbox(flags("110110011"), (block(80, 1), block(80, 2))).to_bytes(),
        lambda data: Inbox.from_bytes(data, 9, 2).to_bytes(),
        16 + 2 + 160,
        [lambda data: Inbox.from_bytes(data, 9, 1), lambda data: Inbox.from_bytes(data, 8, 2)],
    ),
    "masked": Case(
        Masked(block(24, 1), block(16, 2), block(64, 3), block(40, 4)).to_bytes(),
        lambda data: Masked.from_bytes(data, 40, 3).to_bytes(),
        16 + 24 + 16 + 64 + 40,
        [lambda data: Masked.from_bytes(data, 39, 3), lambda data: Masked.from_bytes(data, 40, 4)],
    ),
    "survivors": Case(
        Survivors(flags("10110")).to_bytes(),
        lambda data: Survivors.from_bytes(data, 5).to_bytes(),
        17,
        [lambda data: Survivors.from_bytes(data, 3), lambda data: Survivors.from_bytes(data, 9)],
    ),
    "agreed": Case(Agreed(block(64, 1)).to_bytes(), lambda data: Agreed.from_bytes(data).to_bytes(), 16 + 64),
    "quorum": Case(
        Quorum(flags("1010"), (block(64, 1), block(64, 2))).to_bytes(),
        lambda data: Quorum.from_bytes(data, 4).to_bytes(),
        16 + 1 + 128,
        [lambda data: Quorum.from_bytes(data, 2), lambda data: Quorum.from_bytes(data, 9)],
    ),
    "opened": Case(
        Opened(flags("0110"), (block(32, 1), block(32, 2)), block(16, 3)).to_bytes(),
        lambda data: Opened.from_bytes(data, 4).to_bytes(),
        16 + 1 + 64 + 16,
        [lambda data: Opened.from_bytes(data, 2), lambda data: Opened.from_bytes(data, 9)],
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_there_and_back(case: Case) -> None:
    assert len(case.data) == case.size
    assert case.read(case.data) == case.data


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_cut_and_every_extra_byte_is_refused(case: Case) -> None:
    for cut in range(len(case.data)):
        with pytest.raises(WireError):
            case.read(case.data[:cut])
    longer = case.data[:8] + (len(case.data) - PREFIX + 1).to_bytes(8, "little") + case.data[16:] + b"\0"
    for data in (case.data + b"\0", longer):
        with pytest.raises(WireError):
            case.read(data)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_cut_that_puts_its_length_right_is_refused_or_read_as_what_it_says(case: Case) -> None:
    read = []
    for cut in range(PREFIX, len(case.data)):
        shorter = case.data[:8] + (cut - PREFIX).to_bytes(8, "little") + case.data[16:cut]
        try:
            assert case.read(shorter) == shorter
        except WireError:
            continue
        read.append(cut)
    assert len(read) <= 2  # a header without signature, fewer boxes


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_the_session_does_not_expect_is_refused(case: Case) -> None:
    for read in case.wrong:
        with pytest.raises(WireError):
            read(case.data)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 7, 8, 15])
def test_a_wrong_prefix_is_refused(case: Case, at: int) -> None:
    bad = bytearray(case.data)
    bad[at] ^= 1
    with pytest.raises(WireError):
        case.read(bytes(bad))


@given(st.data())
def test_changed_bytes_are_refused_or_read_as_what_they_say(data: st.DataObject) -> None:
    case = CASES[data.draw(st.sampled_from(sorted(CASES)))]
    bad = bytearray(case.data)
    for _ in range(data.draw(st.integers(1, 3))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    with suppress(WireError):  # any other error fails
        assert case.read(bytes(bad)) == bytes(bad)


def test_kinds_differ_and_are_seen_without_reading() -> None:
    names = ("advert", "roster", "boxes", "inbox", "masked", "survivors", "agreed", "quorum", "opened")
    kinds = [kind_of(CASES[name].data) for name in ("opening", *names)]
    assert kinds == list(range(1, 11))
    assert kind_of(b"SA\1") == 0


def test_a_giant_length_allocates_nothing() -> None:
    with pytest.raises(WireError):
        Boxes.from_bytes(frame(Boxes.kind, b"x"), 1 << 40)
    with pytest.raises(WireError):
        Opening.from_bytes(frame(Opening.kind, b"\xff" * 4))


def test_the_masked_vector_is_aligned_and_not_copied() -> None:
    case = CASES["masked"]
    made = Masked.from_bytes(case.data, 40, 3)
    assert isinstance(made.vector, memoryview)
    assert made.vector.obj is case.data
    assert (len(case.data) - 40) % 8 == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: Opening(b"h", b"short").to_bytes(),
        lambda: Boxes((b"short",), block(16, 1)).to_bytes(),
        lambda: Boxes((), b"short").to_bytes(),
        lambda: Agreed(b"short").to_bytes(),
        lambda: Masked(b"seven b", block(16, 1), block(64, 1), b"").to_bytes(),
        lambda: Quorum(flags("11"), (block(64, 1),)).to_bytes(),
        lambda: Opened(flags("1"), (), block(16, 1)).to_bytes(),
        lambda: Roster(("a",), (), ()).to_bytes(),
        lambda: client_bytes(""),
        lambda: client_bytes("x" * 256),
        lambda: client_bytes("\ud800"),
        lambda: sized(b"x" * 256, 1),
    ],
)
def test_what_cannot_travel_is_not_written(make: Callable[[], bytes]) -> None:
    with pytest.raises(WireError):
        make()


@given(st.lists(st.booleans(), max_size=40))
def test_sets_there_and_back(bits: list[bool]) -> None:
    reader = Reader(frame(1, packed(np.array(bits, np.bool_))), 1)
    assert reader.flags(len(bits)).tolist() == bits
    reader.end()


def test_statements_do_not_run_together() -> None:
    made = [
        statement("a", b"bc"),
        statement("ab", b"c"),
        statement("a", b"b", b"c"),
        statement("a", b"bc", b""),
    ]
    assert len(set(made)) == len(made)


def test_stages_in_order() -> None:
    assert list(Stage) == ["advertise", "share", "mask", "agree", "unmask"]
