"""The section on secure aggregation: who was lost where, what it cost, and what is promised to whom."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fedkit.history import RoundRecord, SecureRecord
from fedkit.report import write_report
from fedkit.report.secure import promise

RECORD = SecureRecord(
    mode="lying_server",
    suite="aes",
    identities="roster",
    width=32,
    reached={"invited": 13, "advertise": 12, "share": 12, "mask": 11, "agree": 11, "unmask": 10},
    neighbours=11,
    threshold=8,
    colluding=3,
    attempts=2,
    aborts=("at mask: fewer than t=9 <holders> are left",),
    lost={"advertise": ("client-007",), "unmask": ("client-001",)},
    bytes_up=12_300,
    bytes_down=45_600,
    client_seconds=None,
    server_seconds=0.25,
    verified=None,
    offenders=(),
)


def section(folder: Path) -> str:
    """The text of the section, cells apart; empty if there is none."""
    page = write_report(folder).read_text(encoding="utf-8")
    if "<h2>Secure aggregation" not in page:
        return ""
    part = page[page.index("<h2>Secure aggregation") :]
    return html.unescape(re.sub(r"(<[^>]+>)+", "|", part[: part.index("</section>")]))


def secured(folder: Path, *records: SecureRecord) -> Path:
    """The run with these records in its first rounds."""
    path = folder / "rounds.jsonl"
    rounds = [RoundRecord.from_json(line) for line in path.read_text().splitlines()]
    told = [*records, *[None] * (len(rounds) - len(records))]
    made = [replace(record, secagg=secure) for record, secure in zip(rounds, told, strict=True)]
    path.write_text("".join(record.to_json() + "\n" for record in made))
    return folder


def test_a_run_without_has_no_such_section(make_run: Callable[..., Path]) -> None:
    assert section(make_run()) == ""


def test_the_section_tells_losses_parameters_and_costs(make_run: Callable[..., Path]) -> None:
    second = replace(RECORD, attempts=1, aborts=(), lost={"unmask": ("client-001", "client-002")})
    said = section(secured(make_run(), RECORD, second))
    for text in (
        "|mode|lying_server|",
        "|identities|roster|",
        "|graph|k = 11, t = 8, c = 3|",
        "|smallest sum|of 11 clients|",
        "|sessions|3, 1 aborted|",
        "|sent up beside vectors|24.6 kB|",
        "|sent down beside tasks|91.2 kB|",
        "|server CPU|500 ms|",
        "|advertise|1|before it sent a key: nobody masks with it|client-007|",
        "|unmask|3|its update is in the sum, if there is one|client-001, client-002|",
        "|13 → 12 → 12 → 11 → 11 → 10|11, 8, 3|2: at mask: fewer than t=9 <holders> are left|",
    ):
        assert text in said
    assert "equals the plain sum" not in said
    assert "clients' CPU" not in said


def test_what_was_verified_is_told_and_what_was_not_even_more(make_run: Callable[..., Path]) -> None:
    good = replace(RECORD, verified=True)
    bad = replace(RECORD, verified=False, offenders=("b: wrong shares", "a"))
    said = section(secured(make_run(), good, good, bad))
    assert "|equals the plain sum|in 2 of 3 sums compared|" in said
    assert said.count("|equal|") == 2
    assert "|NOT equal|" in said
    assert "|broke the protocol|a; b: wrong shares|" in said


def test_sums_of_metrics_have_rows_of_their_own(make_run: Callable[..., Path]) -> None:
    folder = secured(make_run(), RECORD)
    path = folder / "rounds.jsonl"
    first, *others = [RoundRecord.from_json(line) for line in path.read_text().splitlines()]
    measured = replace(first, secagg_evaluate=replace(RECORD, verified=False))
    path.write_text("".join(record.to_json() + "\n" for record in (measured, *others)))
    said = section(folder)
    assert "|1|13 " in said
    assert "|1, metrics|13 " in said
    assert "|equals the plain sum|in 0 of 1 sums compared|" in said


def test_rows_of_sessions_stay_on_their_lines(make_run: Callable[..., Path]) -> None:
    """Where there is room: figures are not broken, nor names in their middle."""
    page = write_report(secured(make_run(), RECORD)).read_text(encoding="utf-8")
    for table in ("sessions", "losses"):
        assert f'class="wide {table}"' in page
        assert re.search(rf"\.{table} td[^{{]*{{ (white-space: nowrap|overflow-wrap: break-word)", page)


def test_a_run_that_lost_nobody_says_so(make_run: Callable[..., Path]) -> None:
    assert "|Nobody was lost.|" in section(secured(make_run(), replace(RECORD, lost={})))


@pytest.mark.parametrize("identities", ["roster", "ca", "none"])
@pytest.mark.parametrize("mode", ["lying_server", "honest_server"])
def test_the_promise_names_its_limits(mode: str, identities: str) -> None:
    said = promise(replace(RECORD, mode=mode, identities=identities))
    strong = mode == "lying_server" and identities != "none"
    assert ("even if it lied" in said) == strong
    assert ("honest server only" in said) != strong
    assert ("Nobody vouched" in said) == (identities == "none")
    assert "not hidden" in said
    assert "simulated" not in said


def test_a_simulation_protects_nothing_and_says_so(make_run: Callable[..., Path]) -> None:
    said = section(secured(make_run(), replace(RECORD, client_seconds=1.5)))
    assert "its keys follow from the seed and protect nothing" in said
    assert "|clients' CPU, all of them|" in said
