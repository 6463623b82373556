"""Fed-Heart-Disease: Ogier du Terrail et al. 2022, arXiv:2210.04620 (FLamby)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean

import pytest

from fedkit.history import History

FLAMBY = 0.748
SEEDS = range(5)


@pytest.mark.prove
@pytest.mark.data
def test_fedavg_on_four_hospitals(
    needs: Callable[[str], None], run_all: Callable[[Mapping[str, Sequence[str]]], Mapping[str, History]]
) -> None:
    needs("heart_disease.npz")
    runs = run_all({str(seed): ["heart", f"seed={seed}"] for seed in SEEDS})
    last = [runs[str(seed)].series("accuracy")[-1][1] for seed in SEEDS]
    print(f"\npooled test accuracy {[round(value, 3) for value in last]}")
    print(f"mean {mean(last):.3f}, FLamby {FLAMBY}")
    assert mean(last) == pytest.approx(FLAMBY, abs=0.01)
