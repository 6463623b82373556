"""The answer to a poll: read as it is meant, and refused where it is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import WireError
from fedkit.federation import Verdict
from fedkit.messages import Key
from fedkit_clients.edge.offers import Blob, Difference, News, Offer, read_news

A, B, C = "a" * 64, "b" * 64, "0" * 64
TASK: dict[str, Any] = {
    **{"id": 7, "lease": 60.0, "frame": A, "bytes": 412, "version": 3},
    **{"model": {"sha256": B, "bytes": 9}, "difference": {"base": 1, "told_by": 2, "sha256": C, "bytes": 5}},
}
SETTLED = ["job", 4, "train", "", 0, "ward 7", "counted"]
NEWS: dict[str, Any] = {"ca": A, "messages": [], "now": 1.5, "tasks": [TASK], "settled": [SETTLED]}


def test_news_are_read() -> None:
    offer = Offer(7, Blob(A, 412), 3, Blob(B, 9), Difference(1, 2, Blob(C, 5)))
    settled = ((Key("job", 4, "train", "", 0, "ward 7"), Verdict.counted),)
    assert read_news(json.dumps(NEWS).encode()) == News(1.5, settled, (offer,), (), bytes.fromhex(A))
    assert offer.blobs == (Blob(A, 412), Blob(B, 9), Blob(C, 5))


def test_a_task_may_have_no_difference() -> None:
    (offer,) = read_news(json.dumps({**NEWS, "tasks": [{**TASK, "difference": None}]}).encode()).offers
    assert offer.difference is None
    assert offer.blobs == (Blob(A, 412), Blob(B, 9))


@pytest.mark.parametrize(
    "wrong",
    [
        {"now": "noon"},
        {"ca": None},
        {"ca": "aa"},
        {"tasks": None},
        {"settled": [SETTLED[:-1]]},
        {"settled": [[*SETTLED[:-1], "won"]]},
        {"settled": [[*SETTLED[:-1], ["counted"]]]},
        {"settled": [["job", -4, *SETTLED[2:]]]},
        {"settled": [["job", 4, "rain", *SETTLED[3:]]]},
        *({"tasks": [{**TASK, name: value}]} for name in TASK for value in ("../job", -1) if name != "lease"),
        {"tasks": [{**TASK, "frame": A.upper()}]},
        {"tasks": [{**TASK, "model": {"sha256": B, "bytes": 1e3}}]},
        {"tasks": [{**TASK, "version": 0}]},
        {"tasks": [TASK] * 257},
        {"settled": [SETTLED] * 257},
    ],
)
def test_other_news_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        read_news(json.dumps({**NEWS, **wrong}).encode())


@given(st.binary(max_size=60))
def test_no_bytes_do_harm(data: bytes) -> None:
    with pytest.raises(WireError):
        read_news(data)
