from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedkit.errors import ConfigError, DataError
from fedkit_simulations.workloads.heart import heart

HOSPITALS = ["cleveland", "hungarian", "switzerland", "va"]


@pytest.fixture
def made(tmp_path: Path) -> str:
    """40 patients; hospital k's features lie around 100 k; every fifth patient is for testing."""
    draw = np.random.default_rng(0)
    center = np.arange(40) % 4
    x = (100 * center[:, None] + draw.normal(size=(40, 13))).astype(np.float32)
    x[:, 3] = 7
    np.savez(
        tmp_path / "heart_disease.npz",
        x=x,
        y=(np.arange(40) % 3 == 0).astype(np.uint8),
        center=center.astype(np.uint8),
        split=(np.arange(40) % 5 == 0).astype(np.uint8),
        center_names=np.array(HOSPITALS),
    )
    return str(tmp_path)


def test_hospitals_and_split(made: str) -> None:
    workload = heart(data=made)
    assert workload.clients() == HOSPITALS
    assert workload.test is not None
    assert len(workload.test[1]) == 8
    assert sum(workload.trainer(c).examples for c in HOSPITALS) == 32
    assert sum(len(workload.held_out[c][1]) for c in HOSPITALS) == 8
    assert type(workload).class_names == ("healthy", "diseased")  # type: ignore[attr-defined]


def test_each_hospital_is_standardised_by_its_training_patients(made: str) -> None:
    workload = heart(data=made)
    for hospital in HOSPITALS:
        x = np.delete(workload.data[hospital][0], 3, axis=1)
        np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(x.std(axis=0), 1, rtol=1e-4)


def test_pooled_standardisation_keeps_the_hospitals_apart(made: str) -> None:
    workload = heart(data=made, standardised="pooled")
    means = [float(workload.data[h][0][:, 0].mean()) for h in HOSPITALS]
    assert means == sorted(means)
    assert means[-1] - means[0] > 2


def test_a_constant_feature_stays_finite(made: str) -> None:
    workload = heart(data=made)
    assert workload.test is not None
    np.testing.assert_array_equal(workload.test[0][:, 3], 0)


def test_errors(made: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'hospital'"):
        heart(data=made, standardised="hospitals")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"cannot find heart_disease\.npz.*docs/data\.md"):
        heart(data=str(tmp_path / "nowhere"))
    np.savez(tmp_path / "bad.npz", x=np.zeros((3, 12)))
    with pytest.raises(DataError, match=r"bad\.npz has no array 'y'"):
        heart(data=str(tmp_path / "bad.npz"))


@pytest.mark.data
def test_real_hospitals(real: Callable[[str], str]) -> None:
    workload = heart(data=real("heart_disease.npz"))
    sizes = {h: (workload.trainer(h).examples, len(workload.held_out[h][1])) for h in workload.clients()}
    assert sizes == {"cleveland": (199, 104), "hungarian": (172, 89), "switzerland": (30, 16), "va": (85, 45)}
    assert np.isfinite(workload.data["switzerland"][0]).all()
    np.testing.assert_array_equal(workload.label_counts()["switzerland"], [0, 30])
