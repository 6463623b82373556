from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedkit.errors import ConfigError
from fedkit.history import Outcome
from fedkit.report.groups import Target, curve, final, find_target, lost, read_groups, to_target


def test_runs_that_differ_in_the_seed_alone_form_a_group(make_run: Callable[..., Path]) -> None:
    folders = [
        make_run(f"{s}-{seed}", seed=seed, strategy=s) for seed in (0, 1) for s in ("fedavg", "fedprox")
    ]
    groups = read_groups(folders)
    assert [(g.name, len(g.runs), g.spread) for g in groups] == [
        ("fedavg", 2, "2 seeds"),
        ("fedprox", 2, "2 seeds"),
    ]
    assert dict(groups[0].differs) == {"strategy.name": "fedavg"}


def test_only_keys_that_differ_are_told(make_run: Callable[..., Path]) -> None:
    groups = read_groups(
        [make_run("a"), make_run("b", config={"mu": "0.1"}), make_run("c", config={"mu": "1.0"})]
    )
    assert [dict(g.differs) for g in groups] == [{"strategy.mu": m} for m in ("–", "0.1", "1.0")]
    assert [g.name for g in groups] == ["a", "b", "c"]


def test_one_and_true_are_not_the_same_setting(make_run: Callable[..., Path]) -> None:
    groups = read_groups([make_run("a", config={"mu": "1"}), make_run("b", config={"mu": "true"})])
    assert [g.name for g in groups] == ["mu=1", "mu=True"]


def test_a_seed_that_is_there_twice_is_not_two_seeds(make_run: Callable[..., Path]) -> None:
    (group,) = read_groups([make_run("a"), make_run("b")])
    assert group.spread == "2 runs"


def test_runs_without_a_scenario_are_not_merged(make_run: Callable[..., Path]) -> None:
    folders = [make_run("a"), make_run("b", seed=1), make_run("c", strategy="fedprox")]
    for folder in folders:
        (folder / "scenario.toml").unlink()
    groups = read_groups(folders)
    assert [g.name for g in groups] == ["a", "b", "c"]
    assert [dict(g.differs) for g in groups] == [
        {"strategy.name": s} for s in ("fedavg", "fedavg", "fedprox")
    ]


def test_a_folder_given_twice_counts_once(make_run: Callable[..., Path]) -> None:
    folder = make_run("a")
    assert len(read_groups([folder, folder / ".." / "a"])[0].runs) == 1


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(ConfigError, match="nothing to compare"):
        read_groups([])


def test_curve_over_rounds_is_mean_and_range(make_run: Callable[..., Path]) -> None:
    (group,) = read_groups([make_run(f"a{s}", seed=s, rounds=5) for s in range(3)])
    drawn = curve(group, "accuracy", "rounds")
    values = np.array([[y for _, y in run.series("accuracy", "rounds")] for run in group.runs])
    assert list(drawn.x) == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(drawn.mean, values.mean(axis=0))
    np.testing.assert_allclose(drawn.low, values.min(axis=0))
    np.testing.assert_allclose(drawn.high, values.max(axis=0))


def test_curve_ends_where_the_first_run_ends(make_run: Callable[..., Path]) -> None:
    folders = [make_run("a", seed=0, rounds=5), make_run("b", seed=1, rounds=5)]
    lines = (folders[1] / "rounds.jsonl").read_text().splitlines()
    (folders[1] / "rounds.jsonl").write_text("\n".join(lines[:3]) + "\n")
    (group,) = read_groups(folders)
    assert list(curve(group, "accuracy", "rounds").x) == [0, 1, 2, 3]
    drawn = curve(group, "accuracy", "seconds")
    assert drawn.x[-1] == pytest.approx(min(run.progress["seconds"][-1] for run in group.runs))
    assert all(low <= mean <= high for low, mean, high in zip(drawn.low, drawn.mean, drawn.high, strict=True))


def test_one_run_is_drawn_as_it_is(make_run: Callable[..., Path]) -> None:
    (group,) = read_groups([make_run("a", rounds=3)])
    drawn = curve(group, "loss", "bytes")
    assert list(zip(drawn.x, drawn.mean, strict=True)) == group.runs[0].series("loss", "bytes")
    assert curve(group, "no such metric", "bytes").x == ()


def test_target_is_what_every_run_reaches(make_run: Callable[..., Path]) -> None:
    groups = read_groups([make_run(f"a{s}", seed=s, target=t) for s, t in ((0, 0.9), (1, 0.8))])
    target = find_target(groups)
    assert target is not None
    runs = groups[0].runs
    assert target.value == min(max(y for _, y in run.series("accuracy", "rounds")) for run in runs)
    assert all(to_target(run, target, "rounds") is not None for run in runs)
    assert to_target(runs[0], Target("accuracy", 2.0, True), "rounds") is None


def test_target_of_the_scenario_comes_first(make_run: Callable[..., Path]) -> None:
    folder = make_run("a", rounds=8)
    with (folder / "scenario.toml").open("a") as file:
        file.write('[stop]\nmetric = "loss"\ntarget = 1.0\nbest = "min"\n')
    groups = read_groups([folder])
    run = groups[0].runs[0]
    assert find_target(groups) == Target("loss", 1.0, True)
    spent = to_target(run, Target("loss", 1.0, True), "rounds")
    assert spent is not None
    below = [x for x, y in run.series("loss", "rounds") if y <= 1.0]
    assert spent == below[0]


def test_final_is_the_last_value(make_run: Callable[..., Path]) -> None:
    (group,) = read_groups([make_run("a")])
    assert final(group.runs[0], "loss") == group.runs[0].rounds[-1].metrics["loss"]
    assert final(group.runs[0], "no such metric") is None


def test_options_that_others_lack_are_told_unless_they_are_defaults(make_run: Callable[..., Path]) -> None:
    plain = make_run("a", config={"lr": "1.0"})
    prox = make_run("b", strategy="fedprox", config={"lr": "1.0", "mu": "0.1"})
    strong = make_run("c", strategy="fedprox", config={"lr": "1.0", "mu": "1.0"})
    other = make_run("d", strategy="elsewhere", config={"beta": "0.5"})
    assert [g.name for g in read_groups([plain, prox])] == ["fedavg", "fedprox"]
    assert [g.name for g in read_groups([plain, strong])] == ["fedavg", "fedprox, mu=1.0"]
    names = [g.name for g in read_groups([plain, prox, strong, other])]
    assert names == ["fedavg", "fedprox, mu=0.1", "fedprox, mu=1.0", "elsewhere, beta=0.5"]


def test_files_are_named_without_their_folders(make_run: Callable[..., Path]) -> None:
    one = make_run("a", config={"path": '"/home/me/one.npz"'})
    two = make_run("b", config={"path": '"/home/me/deep/two.npz"'})
    assert [g.name for g in read_groups([one, two])] == ["path=one.npz", "path=two.npz"]


def test_what_was_carried_in_is_not_missing(make_run: Callable[..., Path]) -> None:
    (group,) = read_groups([make_run("a")])
    (run,) = group.runs
    gone = sum(run.total(o) for o in (Outcome.late, Outcome.lost, Outcome.failed, Outcome.refused))
    carried = sum(len(record.carried) for record in run.rounds)
    assert carried > 0
    assert lost(run) == gone - carried


def test_a_strategy_from_a_file_is_named_without_its_folder(make_run: Callable[..., Path]) -> None:
    groups = read_groups([make_run("a"), make_run("b", strategy="/home/me/mine.py:Median")])
    assert [g.name for g in groups] == ["fedavg", "mine.py:Median"]
