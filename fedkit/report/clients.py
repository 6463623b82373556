"""Who took part, who did not, and why: every invitation of a run is accounted for here."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from fedkit.history import MISSED, Fate, Outcome, RoundRecord
from fedkit.messages import ClientId
from fedkit.report.charts import Layer, bar_chart
from fedkit.report.data import Run
from fedkit.report.markup import Html, choice, el, join, section, table
from fedkit.report.units import count_axis, show_bytes, show_number, show_seconds

COLOURS: Mapping[Outcome, str] = {outcome: str(outcome) for outcome in Outcome} | {Outcome.failed: "o-failed"}
_ORDER = (Outcome.counted, Outcome.unwanted, *MISSED)
_MEANING: Mapping[Outcome, str] = {
    Outcome.counted: "its update is in the model",
    Outcome.unwanted: "enough others had been counted",
    Outcome.late: "still at work when the deadline came",
    Outcome.lost: "no reply before the round closed",
    Outcome.failed: "answered with an error",
    Outcome.refused: "its update broke a rule",
}
_NAMED = 20_000  # with more invitations than this, counted clients are not listed by name
_LONG = 400  # characters of a reason
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e[+-]?\d+)?")


def participation_chart(run: Run) -> Html:
    """Stacked bars: what became of each round's invitations, and late replies of earlier rounds."""
    layers = [Layer(str(o), COLOURS[o], [r.count(o) for r in run.rounds]) for o in _ORDER]
    carried = Layer("carried in", "carried", [r.carried_in for r in run.rounds])
    heads = [f"round {r.round + 1}" + ("" if r.ok else " (failed)") for r in run.rounds]
    high = max((len(r.fates) + r.carried_in for r in run.rounds), default=0)
    x = count_axis("rounds", len(run.rounds), ends_on_tick=False)
    failed = [bar for bar, record in enumerate(run.rounds) if not record.ok]
    ordered = [layers[0], carried, *layers[1:]]
    return bar_chart("Invited clients per round", ordered, heads, x, count_axis("clients", high), failed)


def rounds_section(run: Run) -> Html:
    """One row per round; unfolded, it names every invited client."""
    names = sum(len(record.fates) for record in run.rounds) <= _NAMED
    main = run.metrics[:2]
    head = ["round", "result", *(main or ("",)), "counted", "outcomes", "traffic", "time"]
    head[3:3] = [""] * (2 - max(1, len(main)))
    rows = [_row(record, main, names) for record in run.rounds]
    note = (
        "Unfold a round to see what became of each client that was invited, and why. Rounds are counted "
        "from 1 here, from 0 in rounds.jsonl and in reasons."
    )
    if any(record.carried for record in run.rounds):
        note += " What follows a plus sign are late replies of earlier rounds."
    if not names:
        note += " Counted clients are given by number only; rounds.jsonl names them."
    frame = el("div", el("div", *[el("span", h) for h in head], class_="row head"), *rows, class_="rounds")
    buttons = choice("rounds", ("All", "With dropouts", "Failed"))
    return section("Rounds", el("div", *buttons, frame, class_="tabs"), note=note)


def missing_section(run: Run) -> Html:
    """Reasons, and the clients that were missing most often."""
    tally, missed = _tally(run), _missed(run)
    missing = Counter(client for client, _ in missed)
    some = len(missing)
    if not some:
        late = ", or was carried in" if any(record.carried_in for record in run.rounds) else ""
        return section("Dropouts", note=f"Every client that was invited replied in time{late}.")
    reasons = table(("times", "outcome", "reason"), _reasons([fate for _, fate in missed]))
    worst = sorted(missing, key=lambda client: (-missing[client], client))[:12]
    rows = [_client(client, tally[client], missing[client]) for client in worst]
    clients = table(("client", "missing", "invited", "outcomes"), rows)
    note = f"{some} of the {len(tally)} clients that were ever invited were missing at least once."
    left = el("div", el("h3", "Reasons"), reasons)
    right = el("div", el("h3", "Most often missing"), clients)
    return section("Dropouts", el("div", left, right, class_="columns"), note=note)


def _missed(run: Run) -> list[tuple[ClientId, Fate]]:
    """Every invitation whose update was never counted: late ones that were carried in are not missing."""
    later = {
        (late.round, client)
        for record in run.rounds
        for client, late in record.carried.items()
        if late.outcome is Outcome.counted
    }
    return [
        (client, fate)
        for record in run.rounds
        for client, fate in record.fates.items()
        if fate.outcome in MISSED and (record.round, client) not in later
    ]


def _reasons(fates: Sequence[Fate]) -> list[list[str]]:
    """The ten most frequent reasons; those that differ in a number only are one."""
    found: defaultdict[tuple[Outcome, str], list[str]] = defaultdict(list)
    for fate in fates:
        found[fate.outcome, _NUMBER.sub("…", fate.why)].append(fate.why)
    often = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))[:10]
    return [
        _reason(outcome, whys[0] if len(set(whys)) == 1 else text, len(whys))
        for (outcome, text), whys in often
    ]


def _row(record: RoundRecord, main: Sequence[str], names: bool) -> Html:
    found = record.metrics or record.train
    shown = [show_number(found[name]) if name in found else "–" for name in main]
    invited = len(record.fates)
    carried = record.carried_in
    cells = [
        str(record.round + 1),
        "ok" if record.ok else "failed",
        *[*shown, "", ""][:2],
        f"{record.count(Outcome.counted)} of {invited}" + (f" + {carried}" if carried else ""),
        _bar({outcome: record.count(outcome) for outcome in _ORDER}, invited),
        show_bytes(record.bytes_up + record.bytes_down),
        show_seconds(record.virtual_end - record.virtual_start),
    ]
    whole = record.ok and not any(record.count(outcome) for outcome in MISSED)
    kind = " ".join(["good"] * record.ok + ["whole"] * whole + ["bad"] * (not record.ok))
    summary = el("summary", *[el("span", cell) for cell in cells], class_="row")
    return el("details", summary, el("div", *_fates(record, names), class_="fates"), class_=kind)


def _fates(record: RoundRecord, names: bool) -> list[Html]:
    """Clients with one outcome and one reason share a line."""
    groups: defaultdict[tuple[Outcome, str], list[ClientId]] = defaultdict(list)
    for client in sorted(record.fates):
        groups[record.fates[client].outcome, record.fates[client].why].append(client)
    lines = [el("p", record.reason)] if record.reason else []
    for outcome, why in sorted(groups, key=lambda key: (_ORDER.index(key[0]), key[1])):
        clients = groups[outcome, why]
        who = ", ".join(clients) if names or outcome != Outcome.counted else ""
        said = f" ({_cut(why)})" if why else ""
        lines.append(_line(COLOURS[outcome], f"{len(clients)} {outcome}", f"{said}: {who}" if who else said))
    for client, late in sorted(record.carried.items()):
        said = f" of round {late.round + 1}: {late.outcome}" + (f" ({_cut(late.why)})" if late.why else "")
        lines.append(_line("carried", f"late reply of {client}", said))
    return lines


def _line(colour: str, bold: str, rest: str) -> Html:
    return el("p", el("b", bold), rest, class_=colour)


def _reason(outcome: Outcome, why: str, times: int) -> list[str]:
    return [
        f"{times:,}",
        join([el("i", class_=COLOURS[outcome]), str(outcome)]),
        _cut(why or _MEANING[outcome]),
    ]


def _client(client: ClientId, found: Counter[Outcome], missing: int) -> list[str]:
    said = ", ".join(f"{found[o]} {o}" for o in _ORDER if found[o])
    return [client, str(missing), str(found.total()), el("span", _bar(found, found.total()), title=said)]


def _bar(found: Mapping[Outcome, int], total: int) -> Html:
    """A thin bar with one piece per outcome."""
    pieces = [(o, found[o]) for o in _ORDER if found.get(o)]
    parts = [el("i", class_=COLOURS[o], style=f"width:{100 * n / max(total, 1):.3g}%") for o, n in pieces]
    return el("span", *parts, class_="bar")


def _tally(run: Run) -> dict[ClientId, Counter[Outcome]]:
    tally: defaultdict[ClientId, Counter[Outcome]] = defaultdict(Counter)
    for record in run.rounds:
        for client, fate in record.fates.items():
            tally[client][fate.outcome] += 1
    return dict(tally)


def _cut(text: str) -> str:
    return text if len(text) <= _LONG else text[: _LONG - 1] + "…"
