from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedkit.errors import ConfigError
from fedkit.report import write_report
from fedkit.report.reading import read_run

VOID = {"meta", "input", "path", "br"}
HOSTILE = "<script>alert(1)</script>\"'&</details>"


class Reader(HTMLParser):
    """Checks that tags close in order; collects scripts that run, texts, and what the page refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.running: list[str] = []
        self.texts: list[str] = []
        self.refers: list[str] = []
        self.handlers: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.refers += [value or "" for key, value in attrs if key in ("src", "href")]
        self.handlers += [key for key, _ in attrs if key.startswith("on")]
        if tag == "script" and given.get("type") != "application/json":
            self.running.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def _read(page: Path) -> Reader:
    reader = Reader(page.read_text(encoding="utf-8"))
    assert len(reader.running) == 1
    assert reader.handlers == []
    return reader


def test_report_is_one_file_that_refers_to_nothing(make_run: Callable[..., Path]) -> None:
    folder = make_run(rounds=30, clients=50, failed=(4, 17))
    before = {path.name for path in folder.iterdir()}
    page = write_report(folder)
    assert page == folder / "report.html"
    assert {path.name for path in folder.iterdir()} - before == {"report.html"}
    text = page.read_text(encoding="utf-8")
    assert _read(page).refers == []
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text)
    assert len(text) < 150_000


def test_headline_figures(make_run: Callable[..., Path]) -> None:
    folder = make_run(rounds=12, failed=(3,))
    run = read_run(folder)
    said = " ".join(_read(write_report(folder)).texts)
    best = run.best("accuracy")
    assert best is not None
    for text in (f"{run.rounds[-1].metrics['accuracy']:#.4g}", f"best {best[1]:#.4g} at round {best[0]:.0f}"):
        assert text in said
    assert "1 failed" in said
    assert "5e5e5e5e5e" in said
    assert "650 parameters" in said
    assert "fedkit run digits seed=0" in said
    assert 'name = "fedavg"' in said


def test_every_invited_client_is_named_with_its_reason(make_run: Callable[..., Path]) -> None:
    folder = make_run(rounds=15, clients=20, cohort=8, failed=(2,))
    page = write_report(folder).read_text(encoding="utf-8")
    rows = re.findall(r"<details.*?</details>", page, re.S)
    records = read_run(folder).rounds
    assert len(rows) == len(records)
    for row, record in zip(rows, records, strict=True):
        for client, fate in record.fates.items():
            line = next(p for p in re.findall(r"<p.*?</p>", row) if re.search(rf"\b{client}\b(?! of)", p))
            assert f" {fate.outcome}</b>" in line
            assert fate.why.replace("'", "&#x27;") in line
        for client in record.carried:
            assert f"late reply of {client}</b> of round" in row
    assert "0 counted replies, the quorum is 2" in rows[2]


def test_reasons_that_differ_in_a_number_are_one_and_carried_replies_are_none(
    make_run: Callable[..., Path],
) -> None:
    folder = make_run(rounds=15)
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    late = [fate for line in lines for fate in line["fates"].values() if fate["outcome"] == "late"]
    for number, fate in enumerate(late):
        fate["why"] = f"no reply before the round closed: its reply would come at {number}.5 s"
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    carried = sum(len(line["carried"]) for line in lines)
    assert 0 < carried < len(late)
    page = write_report(folder).read_text(encoding="utf-8")
    reasons = page.split("<h3>Reasons</h3>")[1].split("</table>")[0]
    assert reasons.count("its reply would come at … s") == 1
    assert f"<td>{len(late) - carried}</td>" in reasons
    assert f"{len(late)} late ({carried} carried in)" in page


def test_hostile_names_and_reasons_stay_text(make_run: Callable[..., Path]) -> None:
    folder = make_run(rounds=4, prefix=HOSTILE, why=HOSTILE, status="failed", error=HOSTILE, strategy="x")
    with (folder / "scenario.toml").open("a") as file:
        file.write("note = '''" + HOSTILE + "'''\n")
    reader = _read(write_report(folder))
    assert sum(HOSTILE in text for text in reader.texts) > 4


@pytest.mark.parametrize(("clients", "rounds"), [(0, 2), (1, 1), (4, 1)])
def test_small_runs(make_run: Callable[..., Path], clients: int, rounds: int) -> None:
    reader = _read(write_report(make_run(rounds=rounds, clients=clients, cohort=clients)))
    assert "Dropouts" in reader.texts


def test_seconds_of_real_devices_are_not_virtual(make_run: Callable[..., Path]) -> None:
    pages = [write_report(make_run(clock, rounds=3, clock=clock)) for clock in ("virtual", "wall")]
    said = [page.read_text(encoding="utf-8") for page in pages]
    assert ["Over virtual time" in text for text in said] == [True, False]
    assert "Over time" in said[1]


def test_run_in_progress_says_so(make_run: Callable[..., Path]) -> None:
    said = " ".join(_read(write_report(make_run(rounds=3, summary=False))).texts)
    assert "3 of 3 rounds: the run is going on, or was cut off" in said


def test_failed_run_tells_its_error(make_run: Callable[..., Path]) -> None:
    folder = make_run(rounds=3, failed=(0, 1, 2), status="failed", error="3 failed rounds in a row")
    assert "The run failed: 3 failed rounds in a row" in _read(write_report(folder)).texts


def test_values_that_are_not_finite_are_survived(make_run: Callable[..., Path]) -> None:
    folder = make_run(rounds=3)
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for line, loss in zip(lines, (float("nan"), float("inf"), 1e308), strict=True):
        line["metrics"] = {"loss": loss}
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = " ".join(_read(write_report(folder)).texts)
    assert "Some metrics are not finite" in said


def test_unknown_metric_names_are_drawn(make_run: Callable[..., Path]) -> None:
    folder = make_run(rounds=3)
    path = folder / "rounds.jsonl"
    path.write_text(path.read_text().replace('"accuracy"', '"macro f1"'))
    assert "Final macro f1" in _read(write_report(folder)).texts


def test_500_rounds_of_50_clients_stay_below_a_megabyte(make_run: Callable[..., Path]) -> None:
    page = write_report(make_run(rounds=500, clients=50, cohort=50, failed=(9,)))
    assert page.stat().st_size < 1_000_000
    assert page.read_text(encoding="utf-8").count('<p class="lost">') > 400


def _with_bytes(folder: Path, **bytes_: int) -> Path:
    lines = [json.loads(line) | bytes_ for line in (folder / "rounds.jsonl").read_text().splitlines()]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_bytes_are_compared_with_float32_both_ways(make_run: Callable[..., Path]) -> None:
    folder = _with_bytes(
        make_run(rounds=3), bytes_up=1000, bytes_up_float32=32_000, bytes_down=500, bytes_down_float32=8000
    )
    texts = _read(write_report(folder)).texts
    assert "32.0× smaller than float32" in texts
    assert "16.0× smaller than float32" in texts
    assert "4.50 kB were sent in all, 26.7× smaller than float32. A round fails" in " ".join(texts)


def test_what_was_decided_about_codecs_is_said(make_run: Callable[..., Path]) -> None:
    folder = make_run(rounds=3)
    told = json.loads((folder / "summary.json").read_text())
    codec = {"up": "adaptive/1:best=1,worst=4,small=bfloat16,below=1024,exempt=", "feedback": False}
    codec |= {"down": "tensors/1:small=bfloat16,below=1024,exempt=|int8/1:block=1024", "down_base": "first"}
    codec |= {"rungs": {"ecsq:delta=4": 12, "ecsq:delta=16": 3}}
    (folder / "summary.json").write_text(json.dumps(told | {"codec": codec}))
    said = " ".join(_read(write_report(folder)).texts)
    assert "Codec up: adaptive:best=1,worst=4, 12 × ecsq:delta=4, 3 × ecsq:delta=16." in said
    assert "Codec down: int8:block=1024, differences to the first version." in said
    assert "Codec" not in " ".join(_read(write_report(make_run("plain", rounds=3))).texts)


def test_traffic_that_differs_much_is_drawn_on_a_logarithmic_scale(make_run: Callable[..., Path]) -> None:
    small = _with_bytes(make_run("a", rounds=3), bytes_up=100, bytes_up_float32=32_000)
    plain = _with_bytes(make_run("b", rounds=3), bytes_up=3000, bytes_down=2000, bytes_up_float32=2900)
    assert "(logarithmic)" in " ".join(_read(write_report(small)).texts)
    assert "(logarithmic)" not in " ".join(_read(write_report(plain)).texts)


def test_a_run_without_traffic_is_drawn(make_run: Callable[..., Path]) -> None:
    folder = _with_bytes(make_run(rounds=2), bytes_up=0, bytes_up_float32=0, bytes_down=0)
    assert "Traffic so far" in " ".join(_read(write_report(folder)).texts)


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run folder"):
        write_report(tmp_path)
