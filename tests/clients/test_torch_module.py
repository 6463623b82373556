import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn

from fedkit.errors import ConfigError, LayoutError
from fedkit.tensors import Layout, Tensors
from fedkit_clients.torch_module import Resident, as_tensor

CPU = torch.device("cpu")


class Tied(nn.Module):
    """An autoencoder whose decoder is its encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 4, bias=False)
        self.decoder = nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.encoder(x))
        return out


class Counting(nn.Module):
    """Replaces its buffers instead of writing into them."""

    seen: Tensor
    mean: Tensor
    cache: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("seen", torch.tensor(3))
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("cache", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + len(x)
        self.mean = self.mean + x.mean(0)
        self.cache = self.cache * 2
        out: Tensor = self.layer(x)
        return out


def _ones(layout: Layout) -> Tensors:
    return layout.view(np.ones(layout.size, layout.dtype))


def test_parameters_and_gradients_are_views_of_one_vector() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    expected = {name: t.numpy().copy() for name, t in module.state_dict().items()}
    resident = Resident(module, CPU)
    assert resident.layout.names == tuple(expected)
    assert {n: a.tolist() for n, a in resident.read().items()} == {n: a.tolist() for n, a in expected.items()}
    slab = resident.trained[0]
    assert slab.grad is not None
    module(torch.ones(1, 3)).sum().backward()
    grads = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    assert slab.grad.tolist() == grads.tolist()
    slab.flat.fill_(7.0)
    assert all(bool((p == 7).all()) for p in module.parameters())


def test_tied_parameters_go_by_the_first_name_once_and_stay_tied() -> None:
    module = Tied()
    resident = Resident(module, CPU)
    assert resident.layout.names == ("encoder.weight", "decoder.bias")
    resident.load(_ones(resident.layout))
    assert module.decoder.weight is module.encoder.weight
    assert bool((module.decoder.weight == 1).all())


def test_batch_norm_statistics_follow_the_weights_and_integers_stay_out() -> None:
    norm = nn.BatchNorm1d(4)
    module = nn.Sequential(nn.Linear(3, 4), norm)
    resident = Resident(module, CPU)
    assert resident.layout.names == (
        *("0.weight", "0.bias", "1.weight", "1.bias"),
        *("1.running_mean", "1.running_var"),
    )
    assert {n: int(a) for n, a in resident.fixed.items()} == {"1.num_batches_tracked": 0}
    start = resident.load(_ones(resident.layout))
    module(torch.randn(8, 3))
    change = resident.change(start)
    assert change["1.running_mean"].any()
    assert not change["0.weight"].any()
    assert int(norm.get_buffer("num_batches_tracked")) == 1
    resident.load(_ones(resident.layout))
    assert int(norm.get_buffer("num_batches_tracked")) == 0
    assert norm.get_buffer("running_mean").tolist() == [1.0] * 4


def test_buffers_that_the_module_replaces_are_read_and_put_back() -> None:
    module = Counting()
    resident = Resident(module, CPU)
    start = resident.load(resident.read())
    for _ in range(2):
        module(torch.ones(5, 2))
    assert resident.change(start)["mean"].tolist() == [2.0, 2.0]
    resident.load(resident.read())
    assert (int(module.seen), float(module.cache)) == (3, 1.0)


def test_frozen_parameters_are_fixed_and_named() -> None:
    first = nn.Linear(3, 4).requires_grad_(False)
    module = nn.Sequential(first, nn.Linear(4, 2))
    resident = Resident(module, CPU)
    assert resident.frozen == ("0.weight", "0.bias")
    assert resident.layout.names == ("1.weight", "1.bias")
    assert resident.fixed["0.weight"].tolist() == first.weight.tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_exported_as_float32_and_does_not_move_by_rounding(dtype: torch.dtype) -> None:
    resident = Resident(nn.Linear(3, 2).to(dtype), CPU)
    start = resident.load(resident.layout.view(np.full(8, 1 / 3, np.float32)))
    assert set(resident.layout.dtypes) == {"float32"}
    assert resident.read()["weight"][0, 0] == float(torch.tensor(1 / 3, dtype=dtype))
    assert not resident.change(start).vector.any()


def test_several_dtypes_are_exported_in_the_widest() -> None:
    wide, narrow = nn.Linear(2, 3).double(), nn.Linear(3, 2)
    module = nn.Sequential(wide, narrow)
    resident = Resident(module, CPU)
    assert set(resident.layout.dtypes) == {"float64"}
    assert len(resident.trained) == 2
    shapes = dict(zip(resident.layout.names, resident.layout.shapes, strict=True))
    values = {name: np.full(shape, i / 3) for i, (name, shape) in enumerate(shapes.items())}
    start = resident.load(values)
    assert not resident.change(start).vector.any()
    assert wide.bias.tolist() == [float(values["0.bias"][0])] * 3
    assert narrow.bias.tolist() == [float(np.float32(values["1.bias"][0]))] * 2


def test_evaluation_sets_what_the_model_names_and_training_finds_all_as_it_was() -> None:
    frozen, norm = nn.Linear(2, 2).requires_grad_(False), nn.BatchNorm1d(2)
    resident = Resident(nn.Sequential(frozen, norm, nn.Dropout()), CPU)
    first = frozen.weight.tolist()
    model = {**resident.read(), **resident.fixed, "0.weight": np.zeros((2, 2), np.float32)}
    with resident.evaluating(model) as evaluated:
        assert not evaluated.training
        assert not torch.is_grad_enabled()
        assert not frozen.weight.any()
    assert frozen.weight.tolist() == first
    resident.mode(training=True)
    assert norm.training


def test_parts_that_came_in_evaluation_mode_stay_so_while_training() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    module[1].eval()
    resident = Resident(module, CPU)
    resident.mode(training=False)
    resident.mode(training=True)
    assert [m.training for m in module] == [True, False, True]


def test_a_module_wholly_in_evaluation_mode_is_put_into_training() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).eval()
    resident = Resident(module, CPU)
    resident.mode(training=True)
    assert [m.training for m in module] == [True, True]


def test_a_copy_is_independent() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    resident = Resident(module, CPU)
    copied = resident.copy()
    assert isinstance(copied, nn.Sequential)
    resident.load(_ones(resident.layout))
    assert copied[1].get_buffer("running_mean").tolist() == [0.0, 0.0]
    assert copied[0].get_parameter("weight").untyped_storage().nbytes() == 16


def test_other_names_are_refused() -> None:
    resident = Resident(nn.Linear(2, 2), CPU)
    with pytest.raises(LayoutError, match="bias"):
        resident.load({"weight": np.ones((2, 2), np.float32)})


def test_modules_that_cannot_train_are_errors() -> None:
    with pytest.raises(ConfigError, match="nothing would train"):
        Resident(nn.ReLU(), CPU)
    with pytest.raises(ConfigError, match="complex64"):
        Resident(nn.Linear(2, 2, dtype=torch.complex64), CPU)
    with pytest.raises(ConfigError, match="'weight' has no shape yet"):
        Resident(nn.LazyLinear(2), CPU)
    with pytest.raises(ConfigError, match="'weight' is on device 'meta'"):
        Resident(nn.Linear(2, 2, device="meta"), CPU)


def test_read_only_arrays_are_copied_and_others_shared() -> None:
    array = np.ones(3)
    as_tensor(array)[0] = 5
    assert array[0] == 5
    array.flags.writeable = False
    as_tensor(array)[0] = 7
    assert array[0] == 5
