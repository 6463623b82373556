from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedkit.config import Population
from fedkit.errors import ConfigError, DataError
from fedkit_clients.numpy_trainer import NumpyWorkload
from fedkit_simulations.workloads.mnist import cnn, cnn_small, mnist, planes

TRAIN, TEST = 60, 20


@pytest.fixture
def made(tmp_path: Path) -> str:
    """A file of MNIST's layout: 6 writers in two collections, image i all of grey level i."""
    rows, more = np.arange(TRAIN), np.arange(TEST)
    grey = np.broadcast_to(np.arange(TRAIN, dtype=np.uint8)[:, None, None], (TRAIN, 28, 28))
    np.savez(
        tmp_path / "mnist.npz",
        x_train=grey,
        y_train=(rows % 10).astype(np.uint8),
        x_test=grey[:TEST],
        y_test=(more % 10).astype(np.uint8),
        writer_train=(rows % 6 * 100).astype(np.int16),
        hsf_train=(rows % 2 * 4).astype(np.uint8),
    )
    return str(tmp_path)


def numpy_workload(data: str, **options: object) -> NumpyWorkload:
    workload = mnist(data=data, **options)  # type: ignore[arg-type]
    assert isinstance(workload, NumpyWorkload)
    return workload


def test_writers_are_the_natural_clients(made: str) -> None:
    workload = numpy_workload(made)
    assert workload.clients() == ["w0000", "w0100", "w0200", "w0300", "w0400", "w0500"]
    assert {int(level) for level in np.unique(workload.data["w0100"][0])} == set(range(1, TRAIN, 6))


def test_the_two_collections(made: str) -> None:
    assert numpy_workload(made, by="hsf").clients() == ["hsf0", "hsf4"]


def test_images_stay_bytes_and_are_scaled(made: str) -> None:
    workload = numpy_workload(made)
    x = workload.data["w0000"][0]
    assert x.dtype == np.uint8
    np.testing.assert_allclose(workload.inputs(x), x.reshape(-1, 784) / 255, rtol=1e-6)


def test_other_partitions_divide_all_images(made: str) -> None:
    workload = numpy_workload(made, population=Population(clients=10, partition="shards"))
    assert len(workload.clients()) == 10
    assert sum(workload.trainer(client).examples for client in workload.clients()) == TRAIN


def test_two_hidden_layers_of_mcmahan(made: str) -> None:
    model = numpy_workload(made, model="2nn").init(0)
    assert sum(a.size for a in model.values()) == 199_210


def test_networks_of_torch(made: str) -> None:
    torch = pytest.importorskip("torch")
    assert sum(p.numel() for p in cnn().parameters()) == 1_663_370
    assert sum(p.numel() for p in cnn_small().parameters()) == 215_370
    assert cnn_small()(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
    workload = mnist(data=made, model="cnn-small")
    assert len(workload.clients()) == 6
    assert set(workload.evaluate(workload.init(0))) >= {"accuracy", "loss"}


def test_planes_are_in_the_unit_interval() -> None:
    out = planes(np.full((2, 28, 28), 255, np.uint8))
    assert out.shape == (2, 1, 28, 28)
    assert out.dtype == np.float32
    assert out.max() == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"model": "2n"}, "model = '2n'; did you mean '2nn'"), ({"by": "writers"}, "did you mean 'writer'")],
)
def test_unknown_options_name_the_nearest(made: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mnist(data=made, **options)  # type: ignore[arg-type]


def test_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDKIT_DATA", raising=False)
    with pytest.raises(DataError, match=r"cannot find mnist\.npz .*FEDKIT_DATA.*docs/data\.md"):
        mnist()


def test_missing_key(tmp_path: Path) -> None:
    np.savez(tmp_path / "mnist.npz", x_train=np.zeros((3, 28, 28), np.uint8))
    with pytest.raises(DataError, match=r"mnist\.npz has no array 'y_train'"):
        mnist(data=str(tmp_path))


@pytest.mark.data
def test_real_writers(real: Callable[[str], str]) -> None:
    workload = numpy_workload(real("mnist.npz"))
    sizes = [workload.trainer(client).examples for client in workload.clients()]
    assert (len(sizes), min(sizes), max(sizes), sum(sizes)) == (539, 19, 131, 60_000)
    assert workload.test is not None
    assert workload.test[0].shape == (10_000, 28, 28)
    assert workload.evaluate(workload.init(0))["loss"] == pytest.approx(np.log(10), abs=1e-5)
