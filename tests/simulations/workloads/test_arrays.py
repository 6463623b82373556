"""A user's own data: held-out parts, labels, scaling, models, and a torch Dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedkit.config import Population
from fedkit.errors import ConfigError, DataError
from fedkit.seeds import stream
from fedkit_clients.data import ClientArrays
from fedkit_simulations.workloads.arrays import arrays, classes, from_dataset, hold_out

IID = Population(clients=5, partition="iid")


def examples(count: int = 100) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Two classes that one feature tells apart."""
    y = stream(0, "y").integers(0, 2, count)
    return np.column_stack([10.0 * y + 3.0, stream(0, "x").normal(count)]), y


@pytest.fixture
def own(tmp_path: Path) -> str:
    x, y = examples()
    np.savez(tmp_path / "own.npz", x=x, y=np.array(["ham", "spam"])[y], client=np.arange(100) % 4)
    return str(tmp_path / "own.npz")


def test_natural_clients_with_a_fifth_held_out(own: str) -> None:
    workload = arrays(path=own, population=Population(), seed=1)
    assert list(workload.clients()) == ["0", "1", "2", "3"]
    assert workload.class_names == ("ham", "spam")
    assert [workload.trainer(client).examples for client in workload.clients()] == [20] * 4
    assert [len(workload.held_out[client][1]) for client in workload.clients()] == [5] * 4
    assert workload.test is not None
    assert len(workload.test[1]) == 20
    assert sum(counts.sum() for counts in workload.label_counts().values()) == 80
    assert workload.evaluate(workload.init(0))["loss"] == pytest.approx(np.log(2), rel=1e-6)


def test_features_are_scaled_by_training_examples_alone(own: str) -> None:
    data = arrays(path=own, population=IID).data
    assert isinstance(data, ClientArrays)
    train = np.concatenate([data[client][0] for client in data])
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(axis=0), 1, atol=1e-5)
    plain = arrays(path=own, population=IID, standardise=False)
    assert set(plain.data["c000"][0][:, 0].tolist()) == {3.0, 13.0}


def test_the_seed_fixes_who_has_what(own: str) -> None:
    first, again, other = (arrays(path=own, population=IID, seed=seed) for seed in (1, 1, 2))
    assert (first.data["c001"][0] == again.data["c001"][0]).all()
    assert not np.array_equal(first.data["c001"][0], other.data["c001"][0])


def test_a_test_set_of_ones_own_is_the_servers(tmp_path: Path) -> None:
    x, y = examples()
    np.savez(tmp_path / "t.npz", x=x[:60], y=y[:60], x_test=x[60:], y_test=np.full(40, 7))
    workload = arrays(path=str(tmp_path / "t.npz"), population=IID)
    assert workload.class_names == ("0", "1", "7")
    assert workload.test is not None
    assert workload.test[1].tolist() == [2] * 40
    assert len(workload.held_out) == 0
    assert sum(workload.trainer(client).examples for client in workload.clients()) == 60
    assert {len(counts) for counts in workload.label_counts().values()} == {3}


def test_nothing_held_out_means_no_test(own: str) -> None:
    workload = arrays(path=own, population=IID, test_fraction=0.0)
    assert workload.test is None
    assert workload.evaluate(workload.init(0)) == {}


def test_models(own: str) -> None:
    shapes = {n: a.shape for n, a in arrays(path=own, population=IID, model="mlp", hidden=8).init(0).items()}
    assert shapes == {"0.weight": (2, 8), "0.bias": (8,), "1.weight": (8, 2), "1.bias": (2,)}
    deep = arrays(path=own, population=IID, model="mlp", hidden=(8, 4)).init(0)
    assert deep["1.weight"].shape == (8, 4)


def test_a_csv_with_a_client_column(tmp_path: Path) -> None:
    lines = [f"{i % 7},{'ab'[i % 2]},{i % 3},u{i % 2}" for i in range(30)]
    (tmp_path / "d.csv").write_text("\n".join(["size,kind,label,user", *lines]), encoding="utf-8")
    workload = arrays(path=str(tmp_path / "d.csv"), y="label", client="user", population=Population())
    assert list(workload.clients()) == ["u0", "u1"]
    assert workload.class_names == ("0", "1", "2")
    assert workload.init(0)["weight"].shape == (3, 3)


def test_errors_name_what_to_mend(own: str) -> None:
    with pytest.raises(DataError, match=r"test_fraction = 1\.0"):
        arrays(path=own, population=IID, test_fraction=1.0)
    with pytest.raises(ConfigError, match=r"population\.clients = 500"):
        arrays(path=own, population=Population(clients=500, partition="iid"))


def test_labels_become_classes_in_their_order() -> None:
    code, names = classes("f", np.array(["10", "9", "10", "2"]))
    assert (code.tolist(), names) == ([2, 1, 2, 0], ("2", "9", "10"))
    code, names = classes("f", np.array([-1.0, 4.0]))
    assert (code.tolist(), names) == ([0, 1], ("-1", "4"))
    code, names = classes("f", np.array([True, False]))
    assert (code.tolist(), names) == ([1, 0], ("False", "True"))
    for bad in (
        np.array([0.5, 1.0]),
        np.array(["1", "nan"]),
        np.array([np.inf, 1.0]),
        np.array([1e19, 1e20]),
    ):
        with pytest.raises(DataError, match=r"f: labels such as .* are not classes"):
            classes("f", bad)
    with pytest.raises(DataError, match="labels hold 1 different values"):
        classes("f", np.zeros(3, np.int64))


@settings(deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.floats(0, 0.99), st.integers(0, 9))
def test_holding_out_divides_every_client_and_leaves_it_something(
    sizes: list[int], fraction: float, seed: int
) -> None:
    parts = {f"c{i}": 100 * i + np.arange(size) for i, size in enumerate(sizes)}
    train, held = hold_out(parts, fraction, seed)
    for client, rows in parts.items():
        out = held.get(client, np.zeros(0, np.int64))
        assert sorted([*train[client].tolist(), *out.tolist()]) == rows.tolist()
        assert len(train[client]) >= 1
        assert abs(len(out) - fraction * len(rows)) <= 1
    assert all(len(rows) for rows in held.values())


def test_a_torch_dataset_is_divided_by_its_targets() -> None:
    torch = pytest.importorskip("torch")
    x, y = torch.arange(12).reshape(12, 1), torch.arange(12) % 2
    population = Population(clients=2, partition="shards", shards=1)
    dataset = torch.utils.data.TensorDataset(x, y)
    parts = from_dataset(dataset, population, 0)
    labels = [{int(part[i][1]) for i in range(len(part))} for part in parts.values()]
    assert labels in ([{0}, {1}], [{1}, {0}])
    listed = from_dataset([(x[i], y[i]) for i in range(12)], population, 0)
    given_ = from_dataset(dataset, population, 0, targets=y.tolist())
    for client, part in parts.items():
        assert list(part.indices) == list(listed[client].indices) == list(given_[client].indices)
    with pytest.raises(DataError, match=r"targets have shape \(3,\), the data set holds 12"):
        from_dataset(dataset, population, 0, targets=[0, 1, 0])


@pytest.mark.parametrize(
    ("y", "name"),
    [
        (np.array([1j, 2j]), "complex128"),
        (np.array(["2020-01-01", "2021-01-01"], "M8[D]"), r"datetime64\[D\]"),
    ],
)
def test_labels_that_name_no_class_are_refused(y: NDArray[Any], name: str) -> None:
    with pytest.raises(DataError, match=f"f: labels are {name}: give integers or texts"):
        classes("f", y)
