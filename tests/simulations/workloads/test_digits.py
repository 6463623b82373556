import sys

import numpy as np
import pytest

from fedkit.config import Population
from fedkit.errors import ConfigError
from fedkit_simulations.workloads import digits as module
from fedkit_simulations.workloads.digits import digits

pytest.importorskip("sklearn")


def test_shapes_and_clients() -> None:
    workload = digits()
    assert len(workload.clients()) == 50
    assert workload.test is not None
    x, y = workload.test
    assert x.shape == (359, 64)
    assert x.dtype == np.float32
    assert x.min() == 0
    assert x.max() == 1
    trained = sum(workload.trainer(client).examples for client in workload.clients())
    assert trained + len(y) == 1797


def test_the_test_set_is_stratified() -> None:
    workload = digits(seed=3)
    assert workload.test is not None
    train = np.sum(list(workload.label_counts().values()), axis=0)
    test = np.bincount(workload.test[1], minlength=10)
    np.testing.assert_array_equal(test, np.round(0.2 * (train + test)))


def test_the_seed_decides_the_split() -> None:
    first, again, other = digits(seed=1), digits(seed=1), digits(seed=2)
    assert first.test is not None
    assert again.test is not None
    assert other.test is not None
    np.testing.assert_array_equal(first.test[0], again.test[0])
    assert not np.array_equal(first.test[0], other.test[0])
    counts = [np.stack(list(w.label_counts().values())) for w in (first, again)]
    np.testing.assert_array_equal(counts[0], counts[1])


def test_no_image_is_both_trained_and_tested() -> None:
    workload = digits(population=Population(clients=5, partition="iid"))
    assert workload.test is not None
    seen = {x.tobytes() for client in workload.clients() for x in workload.data[client][0]}
    assert not seen & {x.tobytes() for x in workload.test[0]}


@pytest.mark.parametrize(("model", "size"), [("softmax", 650), ("mlp", 4810)])
def test_models(model: str, size: int) -> None:
    parameters = digits(model=model).init(0)  # type: ignore[arg-type]
    assert sum(a.size for a in parameters.values()) == size


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"model = 'sofmax'; did you mean 'softmax'"):
        digits(model="sofmax")  # type: ignore[arg-type]


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r"pip install 'fedkit\[demo\]'"):
        digits()


def test_the_images_are_those_that_scikit_learn_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = module._images()
    monkeypatch.setattr(module, "FILE", "datasets/no such file")
    theirs = module._images()
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1], theirs[1])
    assert [part.dtype for part in (*ours, *theirs)] == [np.float32, np.int64] * 2
