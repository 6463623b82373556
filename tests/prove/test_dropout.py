"""Half of all clients crash in each round: the run completes and every invited client has a fate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import pytest

from fedkit.history import History, Outcome

SEEDS = range(3)


@pytest.mark.prove
def test_half_of_the_clients_drop_out_of_each_round(
    run_all: Callable[[Mapping[str, Sequence[str]]], Mapping[str, History]],
) -> None:
    pytest.importorskip("sklearn", reason="digits come with scikit-learn")
    runs = run_all({str(seed): ["digits", "devices.drop=0.5", f"seed={seed}"] for seed in SEEDS})
    for seed in SEEDS:
        rounds = runs[str(seed)].rounds
        fates = Counter(fate.outcome for record in rounds for fate in record.fates.values())
        invited, failed = sum(fates.values()), sum(not record.ok for record in rounds)
        accuracy = runs[str(seed)].series("accuracy")[-1][1]
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(fates.items()))
        print(f"\nseed {seed}: {invited} invited, {told}; {failed} rounds failed; accuracy {accuracy:.3f}")
        assert [record.round for record in rounds] == list(range(60))
        assert invited == 13 * 60
        assert fates[Outcome.lost] / invited == pytest.approx(0.5, abs=0.08)
        assert all(record.ok == (record.count(Outcome.counted) >= 5) for record in rounds)
        assert all(fate.why for r in rounds for fate in r.fates.values() if fate.outcome != Outcome.counted)
        assert accuracy > 0.9
