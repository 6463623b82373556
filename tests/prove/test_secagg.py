"""Secret sums on real data: as accurate as in the clear; the same bits where the same clients survive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from fedkit.history import History
from fedkit.secagg.messages import Stage

SEEDS = (0, 1, 2)
LAST = 5
RunAll = Callable[[Mapping[str, Sequence[str]]], Mapping[str, History]]
Needs = Callable[[str], None]
Trace = Callable[..., Any]

WRITERS = ("mnist-writers", "workload_options.model=2nn", "train.lr=0.1", "rounds.count=60")
LOSSY = (*WRITERS, "devices.drop=0.2", "rounds.cohort=26")
"""26 of 539 writers a round, each lost with probability .2, at a stage of its own."""
SECRET = ("secagg.mode=lying_server", "secagg.dropout=0.35")
"""More than the share that is lost on average: 8 of 26 lost are no rarity."""
VARIANTS = {
    "in the clear": (),
    "32 bit": SECRET,
    "64 bit, verified": (*SECRET, "secagg.width=64", "secagg.verify=true"),
    "ring-rotq (auto)": (*SECRET, "codec.up=auto"),
    "ring-srht": (*SECRET, "codec.up=ring-srht"),
}


def late(history: History) -> float:
    """Mean accuracy of the last evaluations, in points."""
    return 100 * float(np.mean([value for _, value in history.series("accuracy")][-LAST:]))


@pytest.mark.prove
def test_a_fifth_lost_in_every_round_costs_nothing_in_secret_either(run_all: RunAll, needs: Needs) -> None:
    needs("mnist.npz")
    runs = run_all({f"{n} {s}": [*LOSSY, f"seed={s}", *v] for n, v in VARIANTS.items() for s in SEEDS})
    print(
        "\n| sums | accuracy | against the clear | rounds failed | bytes up, MB |\n|---|---:|---:|---:|---:|"
    )
    gaps = {}
    for name in VARIANTS:
        of = [runs[f"{name} {seed}"] for seed in SEEDS]
        gaps[name] = float(
            np.mean([late(h) - late(runs[f"in the clear {s}"]) for h, s in zip(of, SEEDS, strict=True)])
        )
        failed = sum(not record.ok for history in of for record in history.rounds)
        sent = sum(record.bytes_up for history in of for record in history.rounds) / len(of) / 1e6
        accuracy = float(np.mean([late(history) for history in of]))
        print(f"| {name} | {accuracy:.2f} | {gaps[name]:+.2f} | {failed} of {60 * len(of)} | {sent:.1f} |")
    assert all(gap >= -0.3 for gap in gaps.values()), gaps
    verified = [
        r.secagg.verified for s in SEEDS for r in runs[f"64 bit, verified {s}"].rounds if r.ok and r.secagg
    ]
    assert verified
    assert all(verified)


@pytest.mark.prove
def test_without_losses_the_secret_run_is_the_plain_run_bit_for_bit(run_all: RunAll, needs: Needs) -> None:
    needs("mnist.npz")
    exact = (*SECRET, "secagg.width=64")
    runs = run_all({name: [*WRITERS, *more] for name, more in (("clear", ()), ("secret", exact))})
    clear, secret = runs["clear"], runs["secret"]
    assert clear.series("loss") == secret.series("loss")
    assert [r.train for r in clear.rounds] == [r.train for r in secret.rounds]


@pytest.mark.prove
@pytest.mark.parametrize("seed", SEEDS)
def test_with_losses_the_secret_run_is_the_plain_run_of_its_survivors(
    trace: Trace, needs: Needs, seed: int
) -> None:
    """A fifth lost at stages of their own; in the clear nobody fails and just the survivors are heard."""
    needs("mnist.npz")
    name, *settings = (*WRITERS, "rounds.cohort=26", f"seed={seed}")
    secret = trace(name, (*settings, "devices.drop=0.2", *SECRET, "secagg.width=64"))
    plain = trace(name, settings, secret.members)
    lost = Counter[str]()
    for record in secret.history.rounds:
        lost.update({str(stage): len(who) for stage, who in record.secagg.lost.items()})
    counted, failed = sum(map(len, secret.members.values())), sum(not r.ok for r in secret.history.rounds)
    print(
        f"\nseed {seed}: {counted} of {60 * 26} updates counted, {failed} rounds without a sum, lost {lost}"
    )
    assert set(lost) == set(Stage)
    assert plain.members == secret.members
    assert plain.models == secret.models
    assert len(plain.models) == 61
    for one, other in zip(plain.history.rounds, secret.history.rounds, strict=True):
        assert (one.train, one.weight, one.metrics) == (other.train, other.weight, other.metrics)
