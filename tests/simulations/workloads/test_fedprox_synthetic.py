from collections.abc import Callable

import numpy as np
import pytest

from fedkit.errors import ConfigError
from fedkit_simulations.workloads.fedprox_synthetic import fedprox_synthetic, generate

FILE = "fedprox_synthetic_test.npz"


def test_shapes_and_split() -> None:
    workload = fedprox_synthetic()
    assert len(workload.clients()) == 30
    assert sum(a.size for a in workload.init(0).values()) == 610
    assert workload.test is not None
    held = 0
    for client, (x, _) in generate(1.0, 1.0, 30, 0).items():
        train, test = len(workload.data[client][1]), len(workload.held_out[client][1])
        assert (train, train + test) == (int(0.9 * len(x)), len(x))
        assert len(x) >= 50
        held += test
    assert workload.test[0].shape == (held, 60)
    assert workload.test[0].dtype == np.float32


def test_the_seed_decides_and_clients_keep_their_data() -> None:
    first, again, other = (generate(1.0, 1.0, 3, seed) for seed in (0, 0, 1))
    for client, (x, y) in first.items():
        np.testing.assert_array_equal(x, again[client][0])
        np.testing.assert_array_equal(y, again[client][1])
        assert x.shape != other[client][0].shape or not np.array_equal(x, other[client][0])


def test_sizes_are_log_normal() -> None:
    sizes = np.array([len(y) for _, y in generate(0.0, 0.0, 300, 5).values()])
    logs = np.log(np.maximum(sizes - 50, 0.5))
    assert np.median(logs) == pytest.approx(4.0, abs=0.35)
    assert logs[sizes > 60].max() > 8


def test_features_spread_as_the_recipe_says() -> None:
    x = max((x for x, _ in generate(1.0, 1.0, 30, 0).values()), key=len)
    expected = np.arange(1, 61) ** -0.6
    np.testing.assert_allclose(x.std(axis=0), expected, rtol=0.1)


def spread_of_means(beta: float) -> float:
    return float(np.std([x.mean() for x, _ in generate(1.0, beta, 60, 1).values()]))


def test_beta_moves_the_clients_apart() -> None:
    assert spread_of_means(0.0) < 0.25
    assert spread_of_means(1.0) == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("options", [{"clients": 0}, {"alpha": -1.0}, {"beta": -0.1}])
def test_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        fedprox_synthetic(**options)  # type: ignore[arg-type]


@pytest.mark.data
def test_statistics_of_the_published_data(real: Callable[[str], str]) -> None:
    """The authors' test split and ours: few labels a client, the same spread within and among clients."""
    published = np.load(real(FILE), allow_pickle=False)
    owner = published["client_1_1"]
    theirs = [(published["x_1_1"][owner == k], published["y_1_1"][owner == k]) for k in range(30)]
    ours = list(fedprox_synthetic(seed=1).held_out.values())
    for parts in (theirs, ours):
        assert len(parts) == 30
        assert min(len(y) for _, y in parts) >= 5
        assert 1.5 < np.mean([len(np.unique(y)) for _, y in parts]) < 3.5
        assert 0.6 < np.std([x.mean() for x, _ in parts]) < 1.5
        deviation = np.mean([x.std(axis=0, ddof=1) for x, _ in parts], axis=0)
        np.testing.assert_allclose(deviation, np.arange(1, 61) ** -0.6, rtol=0.25)
