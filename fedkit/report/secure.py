"""How the updates of a run were summed in secret: what that promises, who was lost, what it cost."""

from __future__ import annotations

from collections.abc import Sequence

from fedkit.errors import many
from fedkit.history import SecureRecord
from fedkit.report.data import Run
from fedkit.report.markup import Html, el, section, table
from fedkit.report.units import show_bytes, show_seconds

STAGES = ("advertise", "share", "mask", "agree", "unmask")
_AT: dict[str, str] = {
    "advertise": "before it sent a key: nobody masks with it",
    "share": "before its secrets were shared: nobody masks with it",
    "mask": "before its masked update came: its masks were removed, its update stays hidden",
    "agree": "its update is in the sum, if there is one",
    "unmask": "its update is in the sum, if there is one",
}
_SHOWN = 12


def secure_section(run: Run) -> Html | None:
    """The section "Secure aggregation"; None for a run without."""
    if not (done := run.secure):
        return None
    records = [secure for _, secure in done]
    facts = table(("", ""), _facts(records), class_="keys")
    lost = _lost(records)
    where = (
        table(("lost at", "times", "meaning", "clients"), lost, class_="losses")
        if lost
        else el("p", "Nobody was lost.")
    )
    left, right = el("div", el("h3", "In this run"), facts), el("div", el("h3", "Clients lost"), where)
    words = "k: neighbours of a client. t: shares that rebuild a secret. c: neighbours that may be corrupt."
    rounds = table(_HEAD, [_row(name, secure) for name, secure in done], class_="sessions")
    parts = (el("div", left, right, class_="columns"), el("p", words, class_="note"), rounds)
    return section("Secure aggregation", *parts, note=promise(records[-1]))


def promise(record: SecureRecord) -> str:
    """What these settings promise, and against whom."""
    if record.mode == "lying_server" and record.identities != "none":
        said = (
            "The server saw sums of updates only, even if it lied to its clients, unless more of them "
            "worked with it than the smallest session that they accept stands (fedkit secagg plan)."
        )
    else:
        said = (
            "Holds against an honest server only: one that followed the protocol saw sums of updates alone, "
            "one that lied could have seen the update of a single client."
        )
    if record.identities == "none":
        said += " Nobody vouched for the keys of clients, so the server could have played some of them."
    if record.client_seconds is not None:
        said += " This run was simulated: its keys follow from the seed and protect nothing."
    return f"{said} What a sum itself tells is not hidden."


def _facts(records: Sequence[SecureRecord]) -> list[tuple[str, str]]:
    last = records[-1]
    graphs = sorted({(r.neighbours, r.threshold, r.colluding) for r in records if r.threshold})
    shown = [f"k = {k}, t = {t}, c = {c}" for k, t, c in graphs]
    clients = [r.client_seconds for r in records if r.client_seconds is not None]
    checked = [r.verified for r in records if r.verified is not None]
    sums = [r.reached["mask"] for r in records if r.attempts > len(r.aborts) and "mask" in r.reached]
    offenders = sorted({name for r in records for name in r.offenders})
    gone = sorted({(client, why) for r in records for client, why in r.quarantined.items()})
    rows = [
        ("mode", last.mode),
        ("identities", last.identities),
        ("ciphers", last.suite),
        ("bits of a lane", ", ".join(str(width) for width in sorted({r.width for r in records}))),
        ("graph", "; ".join(shown[:3]) + (f"; {len(shown) - 3} more" if len(shown) > 3 else "")),
        ("smallest sum", f"of {many(min(sums), 'client')}" if sums else ""),
        ("sessions", f"{sum(r.attempts for r in records)}, {sum(len(r.aborts) for r in records)} aborted"),
        ("sent up beside vectors", show_bytes(sum(r.bytes_up for r in records))),
        ("sent down beside tasks", show_bytes(sum(r.bytes_down for r in records))),
        ("server CPU", show_seconds(sum(r.server_seconds for r in records))),
        ("clients' CPU, all of them", show_seconds(sum(clients)) if clients else ""),
        ("equals the plain sum", f"in {sum(checked)} of {len(checked)} sums compared" if checked else ""),
        ("broke the protocol", "; ".join(offenders)),
        ("not invited again", "; ".join(f"{client}, which sent {why}" for client, why in gone)),
    ]
    return [(name, value) for name, value in rows if value]


def _lost(records: Sequence[SecureRecord]) -> list[list[str]]:
    """One row for each stage at which somebody was lost."""
    rows = []
    for stage in STAGES:
        gone = [client for record in records for client in record.lost.get(stage, ())]
        names = sorted(set(gone), key=lambda name: (-gone.count(name), name))
        said = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        if gone:
            rows.append([stage, str(len(gone)), _AT[stage], said])
    return rows


_HEAD = ("round", "clients at each stage", "k, t, c", "sessions", "beside the vectors", "CPU", "plain sum")


def _row(name: str, secure: SecureRecord) -> list[str]:
    reached = " → ".join(str(n) for n in secure.reached.values())
    graph = f"{secure.neighbours}, {secure.threshold}, {secure.colluding}" if secure.threshold else "–"
    aborted = f"{secure.attempts}: {'; '.join(secure.aborts)}" if secure.aborts else str(secure.attempts)
    spent = f"{show_bytes(secure.bytes_up)} up, {show_bytes(secure.bytes_down)} down"
    clients = f", clients {show_seconds(secure.client_seconds)}" if secure.client_seconds is not None else ""
    equal = {True: "equal", False: "NOT equal", None: "–"}[secure.verified]
    return [
        name,
        reached,
        graph,
        aborted,
        spent,
        f"server {show_seconds(secure.server_seconds)}{clients}",
        equal,
    ]
