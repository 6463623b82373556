from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedkit.config import Population
from fedkit.errors import ConfigError, DataError
from fedkit_simulations.workloads.adult import CATEGORICAL, NUMERIC, adult

ROWS = 30


def arrays() -> dict[str, np.ndarray]:
    """30 people, every third for testing; category i has i + 2 levels."""
    rows = np.arange(ROWS)
    made = {f"num_{name}": (rows * (i + 1)).astype(np.int32) for i, name in enumerate(NUMERIC)}
    for i, name in enumerate(CATEGORICAL):
        made[f"cat_{name}"] = (rows % (i + 2)).astype(np.uint8)
        made[f"levels_{name}"] = np.array([f"{name}-{k}" for k in range(i + 2)])
    return made | {"split": (rows % 3 == 0).astype(np.uint8), "y": (rows % 4 == 0).astype(np.uint8)}


@pytest.fixture
def made(tmp_path: Path) -> str:
    np.savez(tmp_path / "adult.npz", **arrays())  # type: ignore[arg-type]
    return str(tmp_path)


def test_occupations_are_the_natural_clients(made: str) -> None:
    workload = adult(data=made)
    assert workload.clients() == [f"occupation-{k}" for k in range(5)]
    assert sum(workload.trainer(c).examples for c in workload.clients()) == 20
    assert workload.test is not None
    assert len(workload.test[1]) == 10
    assert type(workload).class_names == ("<=50K", ">50K")  # type: ignore[attr-defined]


def test_another_column_or_a_made_division(made: str) -> None:
    assert adult(data=made, by="sex").clients() == [f"sex-{k}" for k in range(8)]
    divided = adult(data=made, population=Population(clients=4, partition="iid"))
    assert divided.clients() == ["c000", "c001", "c002", "c003"]


def test_features_are_numbers_then_one_hot_codes(made: str) -> None:
    workload = adult(data=made)
    x = np.concatenate([workload.data[c][0] for c in workload.clients()])
    assert x.shape == (20, 6 + sum(range(2, 10)))
    np.testing.assert_allclose(x[:, :6].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(x[:, :6].std(axis=0), 1, rtol=1e-4)
    np.testing.assert_array_equal(x[:, 6:].sum(axis=1), len(CATEGORICAL))
    assert set(np.unique(x[:, 6:])) == {0.0, 1.0}


def test_errors(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="did you mean 'native_country'"):
        adult(data=made, by="native-country")
    monkeypatch.delenv("FEDKIT_DATA", raising=False)
    with pytest.raises(DataError, match=r"cannot find adult\.npz.*docs/data\.md"):
        adult()
    short = {key: array for key, array in arrays().items() if key != "levels_race"}
    np.savez(Path(made) / "adult.npz", **short)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"adult\.npz has no array 'levels_race'"):
        adult(data=made)


@pytest.mark.data
def test_real_census(real: Callable[[str], str]) -> None:
    path = real("adult.npz")
    workload = adult(data=path)
    assert len(workload.clients()) == 15
    assert "Exec-managerial" in workload.clients()
    assert workload.test is not None
    assert workload.test[0].shape == (16_281, 108)
    assert sum(workload.trainer(c).examples for c in workload.clients()) == 32_561
    # The training split lacks no country; Holland has one person, in it.
    assert len(adult(data=path, by="native_country").clients()) == 42
