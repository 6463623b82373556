from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest

from fedkit.errors import ConfigError
from fedkit.history import Outcome, RoundRecord, SecureRecord
from fedkit.report import summary_rows, write_compare, write_report
from fedkit.report.reading import read_run
from fedkit.report.units import show_bytes, times


def _folders(make_run: Callable[..., Path], rounds: int = 6) -> list[Path]:
    return [
        make_run(f"{strategy}-{seed}", strategy=strategy, seed=seed, rounds=rounds)
        for strategy in ("fedavg", "fedprox")
        for seed in range(3)
    ]


def test_writes_a_page_and_a_csv_file(make_run: Callable[..., Path], tmp_path: Path) -> None:
    page, sheet = write_compare(_folders(make_run), tmp_path / "new" / "cmp.html")
    assert (page, sheet) == (tmp_path / "new" / "cmp.html", tmp_path / "new" / "cmp.csv")
    text = page.read_text(encoding="utf-8")
    assert "digits: 6 runs compared" in text
    assert text.count('class="band') == 2 * 2 * 3  # metrics, groups, kinds of x
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text)
    assert write_compare(_folders_again(tmp_path), tmp_path)[0] == tmp_path / "compare.html"


def test_runs_with_and_without_devices_share_an_axis_of_time(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    alone = write_compare([make_run("a", rounds=3), make_run("b", rounds=3, seed=1)], tmp_path / "one.html")[
        0
    ]
    mixed = write_compare([tmp_path / "a", make_run("c", rounds=3, clock="wall")], tmp_path / "two.html")[0]
    said = [page.read_text(encoding="utf-8") for page in (alone, mixed)]
    assert ["Over virtual time" in text for text in said] == [True, False]
    assert "Over time" in said[1]


def _folders_again(tmp_path: Path) -> list[Path]:
    return sorted(path.parent for path in tmp_path.glob("*/rounds.jsonl"))


def test_csv_has_one_row_per_run_and_round(make_run: Callable[..., Path], tmp_path: Path) -> None:
    folders = _folders(make_run)
    _, sheet = write_compare(folders, tmp_path / "cmp.html")
    with sheet.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * (6 + 1)
    for folder in folders:
        run = read_run(folder)
        mine = [row for row in rows if row["run"] == str(folder)]
        assert [int(row["round"]) for row in mine] == list(range(7))
        assert float(mine[0]["accuracy"]) == 0.1
        for row, record in zip(mine[1:], run.rounds, strict=True):
            assert float(row["loss"]) == record.metrics["loss"]
            assert row["train_loss"] == (str(record.train["loss"]) if record.train else "")
            assert int(row["bytes_up"]) == record.bytes_up
            assert sum(int(row[outcome]) for outcome in Outcome) == int(row["invited"]) == len(record.fates)
            assert float(row["virtual_seconds"]) == record.virtual_end


def test_summary_is_mean_and_standard_deviation(make_run: Callable[..., Path]) -> None:
    folders = _folders(make_run)
    rows = summary_rows(folders)
    assert [row["group"] for row in rows] == ["fedavg", "fedprox"]
    assert list(rows[0]) == list(rows[1])
    finals = [read_run(folder).rounds[-1].metrics["accuracy"] for folder in folders[:3]]
    mean, spread = (float(part) for part in rows[0]["final accuracy"].split(" ± "))
    assert mean == pytest.approx(fmean(finals), rel=1e-2)
    assert spread == pytest.approx(stdev(finals), rel=0.06)
    assert any(key.startswith("rounds to accuracy") for key in rows[0])


def test_a_single_run_has_no_spread(make_run: Callable[..., Path]) -> None:
    (row,) = summary_rows([make_run("a")])
    assert row["runs"] == "seed 0"
    assert "±" not in "".join(row.values())


def test_seeds_that_agree_have_no_spread(make_run: Callable[..., Path]) -> None:
    (row,) = summary_rows([make_run(f"a{seed}", seed=seed, rounds=4) for seed in range(2)])
    assert "±" in row["final accuracy"]
    assert row["rounds failed"] == "0"
    assert not any(re.search(r"± 0(\.0*)?( |$)", text) for text in row.values())


def test_bytes_to_a_target_are_those_of_both_ways(make_run: Callable[..., Path]) -> None:
    folder = make_run("a", rounds=6)
    run = read_run(folder)
    (row,) = summary_rows([folder])
    best = max(range(7), key=[0.1, *(r.metrics["accuracy"] for r in run.rounds)].__getitem__)
    key = next(key for key in row if key.startswith("bytes up + down to accuracy"))
    assert row[key] == show_bytes(sum(r.bytes_up + r.bytes_down for r in run.rounds[:best]))


def test_titles_name_files_without_their_folders(make_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_run("a", strategy="/home/me/mine.py:Median")
    text = (folder / "scenario.toml").read_text().replace('"digits"', '"/home/me/own.py:make"')
    (folder / "scenario.toml").write_text(text)
    page = write_compare([folder], tmp_path / "cmp.html")[0].read_text(encoding="utf-8")
    assert "<title>own.py:make: 1 run compared" in page
    report = write_report(folder).read_text(encoding="utf-8")
    assert "<title>own.py:make · mine.py:Median · a" in report
    assert "<h1>own.py:make</h1>" in report


def test_a_target_that_some_seeds_miss_says_how_many(make_run: Callable[..., Path]) -> None:
    folders = [make_run(f"a{seed}", seed=seed, target=t) for seed, t in ((0, 0.9), (1, 0.5))]
    for folder in folders:
        with (folder / "scenario.toml").open("a") as file:
            file.write('[stop]\nmetric = "accuracy"\ntarget = 0.75\n')
    (row,) = summary_rows(folders)
    assert row["rounds to accuracy 0.7500"].endswith("(1 of 2)")
    assert summary_rows(folders[1:])[0]["rounds to accuracy 0.7500"] == "never"


def test_differences_and_links(make_run: Callable[..., Path], tmp_path: Path) -> None:
    folders = [make_run("a b"), make_run("c", config={"mu": "0.5"})]
    write_report(folders[0])
    text = write_compare(folders, tmp_path / "cmp.html")[0].read_text(encoding="utf-8")
    assert "<code>strategy.mu</code>" in text
    assert "<code>strategy.name</code>" not in text
    assert 'href="a%20b/report.html"' in text
    assert text.count("report.html") == 1


def test_failed_and_unfinished_runs_are_compared_too(make_run: Callable[..., Path], tmp_path: Path) -> None:
    folders = [
        make_run("a", status="failed", error="x", rounds=2),
        make_run("b", summary=False, rounds=4, seed=1),
    ]
    text = write_compare(folders, tmp_path / "cmp.html")[0].read_text(encoding="utf-8")
    assert "<td>failed</td>" in text
    assert "<td>running</td>" in text


def test_values_that_are_not_finite_are_survived(make_run: Callable[..., Path], tmp_path: Path) -> None:
    folders = [make_run("a", rounds=3), make_run("b", rounds=3, seed=1)]
    path = folders[0] / "rounds.jsonl"
    lines = [json.loads(line) | {"metrics": {"loss": float("nan")}} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_compare(folders, tmp_path / "cmp.html")
    assert summary_rows(folders)[0]["final loss"] == "nan"


def test_hostile_names_stay_text(make_run: Callable[..., Path], tmp_path: Path) -> None:
    folders = [make_run("<b>x<", strategy="<script>1</script>"), make_run("y", strategy="</script>")]
    text = write_compare(folders, tmp_path / "cmp.html")[0].read_text(encoding="utf-8")
    assert "<b>x" not in text
    assert "<script>1" not in text
    assert text.count("<script") == text.count("</script>")


def test_a_folder_that_is_no_run_is_an_error(make_run: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        write_compare([make_run("a"), tmp_path / "absent"], tmp_path / "cmp.html")
    assert not (tmp_path / "cmp.html").exists()


def _sized(folder: Path, factor: float) -> Path:
    """The run with bytes scaled: as if its codec were so much better or worse."""
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {"bytes_up": int(line["bytes_up"] * factor), "bytes_down": int(line["bytes_down"] * factor)}
        line |= {"bytes_up_float32": 64_000, "bytes_down_float32": 32_000}
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_bytes_that_differ_much_share_a_logarithmic_axis(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    plain = _sized(make_run("a"), 1)
    near = _sized(make_run("b", config={"mu": "1"}), 0.5)
    small = _sized(make_run("c", config={"mu": "2"}), 0.01)
    seeds = _sized(make_run("d", config={"mu": "2"}, seed=1), 0.01)
    text = write_compare([plain, near], tmp_path / "near.html")[0].read_text(encoding="utf-8")
    assert "logarithmic" not in text
    text = write_compare([plain, small, seeds], tmp_path / "far.html")[0].read_text(encoding="utf-8")
    assert text.count("bytes up and down (logarithmic)</span>") == 2  # one chart for each metric
    assert "-9000" not in text  # nothing is drawn far outside, where the logarithm of 0 would be


def test_the_summary_tells_how_much_smaller_each_way(make_run: Callable[..., Path]) -> None:
    folder = _sized(make_run("a", rounds=2), 1)
    run = read_run(folder)
    (row,) = summary_rows([folder])
    assert row["saving up"] == times(128_000 / sum(run.bytes_up))
    assert row["saving down"] == times(64_000 / sum(run.bytes_down))
    assert row["saving in all"] == times(192_000 / sum(run.bytes_up + run.bytes_down))
    assert summary_rows([make_run("old", rounds=2)])[0]["saving up"] == "–"


def test_what_costs_more_than_float32_saves_nothing_and_says_how_much(make_run: Callable[..., Path]) -> None:
    folder = _sized(make_run("a", rounds=2), 1.25)
    run = read_run(folder)
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        line["bytes_up_float32"] = line["bytes_up"] * 4 // 5
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run.bytes_up == read_run(folder).bytes_up
    assert summary_rows([folder])[0]["saving up"] == "none, 1.25× float32"


@pytest.mark.parametrize(("key", "panel"), [("codec.up", "over1"), ("mu", "over0")])
def test_runs_that_differ_in_their_codecs_are_drawn_over_bytes_first(
    make_run: Callable[..., Path], tmp_path: Path, key: str, panel: str
) -> None:
    folders = [make_run(name, rounds=3) for name in ("one", "two")]
    for folder, value in zip(folders, ("int8", "eden"), strict=True):
        with (folder / "scenario.toml").open("a") as file:
            file.write(f'\n[{key.rpartition(".")[0] or "extra"}]\n{key.rpartition(".")[2]} = "{value}"\n')
    text = write_compare(folders, tmp_path / "cmp.html")[0].read_text(encoding="utf-8")
    (opened,) = re.findall(r"<input [^>]*checked[^>]*>", text)
    assert f'id="{panel}"' in opened


def test_secret_sums_are_compared_by_what_they_cost(make_run: Callable[..., Path]) -> None:
    off, on = make_run("off"), make_run("on", config={"[secagg]\nmode": '"lying_server"'})
    assert "sessions aborted" not in summary_rows([off])[0]
    path, lost = on / "rounds.jsonl", {"mask": ("client-001", "client-002")}
    reached = {"invited": 10, "unmask": 8}
    secure = SecureRecord(
        *("lying_server", "aes", "roster", 32, reached, 9, 7, 3, 2, ("too few",), lost, 1000, 2000),
        *(None, 0.1, None, ()),
    )
    records = [RoundRecord.from_json(line) for line in path.read_text().splitlines()]
    records[0] = replace(records[0], secagg=secure, secagg_evaluate=secure)
    path.write_text("".join(record.to_json() + "\n" for record in records))
    plain, secret = summary_rows([off, on])
    keys = ("sessions aborted", "lost in sessions", "bytes of secrecy")
    assert [secret[key] for key in keys] == ["2", "4", "6.00 kB"]
    assert [plain[key] for key in keys] == ["–", "–", "–"]
