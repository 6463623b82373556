from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedkit.errors import ConfigError, DataError
from fedkit_simulations.workloads.wisdm import latest, wisdm


@pytest.fixture
def made(tmp_path: Path) -> str:
    """Three users, ten windows of each of two activities, one missing value."""
    user = np.repeat([1, 2, 36], 20).astype(np.uint8)
    y = np.tile(np.repeat([0, 4], 10), 3).astype(np.uint8)
    x = np.random.default_rng(0).normal(5, 3, (60, 43)).astype(np.float32)
    x[7, 33] = np.nan
    np.savez(tmp_path / "wisdm_har.npz", x=x, y=y, user=user)
    return str(tmp_path)


def test_users_and_their_held_out_windows(made: str) -> None:
    workload = wisdm(data=made)
    assert workload.clients() == ["u01", "u02", "u36"]
    for user in workload.clients():
        np.testing.assert_array_equal(workload.label_counts()[user], [8, 0, 0, 0, 8])
        np.testing.assert_array_equal(workload.held_out[user][1], [0, 0, 4, 4])
    assert workload.test is not None
    assert workload.test[0].shape == (12, 43)
    assert len(type(workload).class_names) == 6  # type: ignore[attr-defined]


def test_the_last_fifth_is_held_out() -> None:
    y = np.array([0, 1, 0, 0, 0, 0, 1, 0])
    marked = latest(np.ones(8), y)
    np.testing.assert_array_equal(np.flatnonzero(marked), [7])


def test_features_are_standardised_by_training_windows(made: str) -> None:
    workload = wisdm(data=made)
    x = np.concatenate([workload.data[user][0] for user in workload.clients()])
    np.testing.assert_allclose(np.delete(x, 33, axis=1).mean(axis=0), 0, atol=1e-5)
    assert x[7, 33] == 0


def test_models(made: str) -> None:
    assert sum(a.size for a in wisdm(data=made, model="softmax").init(0).values()) == 44 * 6
    assert sum(a.size for a in wisdm(data=made, hidden=10).init(0).values()) == 44 * 10 + 11 * 6


def test_errors(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="did you mean 'mlp'"):
        wisdm(data=made, model="mlpp")  # type: ignore[arg-type]
    monkeypatch.delenv("FEDKIT_DATA", raising=False)
    with pytest.raises(DataError, match=r"cannot find wisdm_har\.npz.*docs/data\.md"):
        wisdm()
    np.savez(Path(made) / "wisdm_har.npz", x=np.zeros((3, 43)), y=np.zeros(3, int))
    with pytest.raises(DataError, match=r"wisdm_har\.npz has no array 'user'"):
        wisdm(data=made)


@pytest.mark.data
def test_real_users(real: Callable[[str], str]) -> None:
    path = real("wisdm_har.npz")
    workload = wisdm(data=path)
    assert len(workload.clients()) == 36
    assert workload.test is not None
    trained = sum(workload.trainer(user).examples for user in workload.clients())
    assert trained + len(workload.test[1]) == 5418
    assert 0.17 < len(workload.test[1]) / 5418 < 0.2
    assert np.isfinite(workload.test[0]).all()
    assert tuple(np.load(path)["class_names"]) == type(workload).class_names  # type: ignore[attr-defined]
