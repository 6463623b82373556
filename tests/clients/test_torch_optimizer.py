from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from fedkit.errors import ConfigError
from fedkit_clients.settings import TrainSettings
from fedkit_clients.torch_module import Resident
from fedkit_clients.torch_optimizer import Stepper

CPU = torch.device("cpu")
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {}),
    "sgd-all": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01}),
    "adam": (torch.optim.Adam, {"weight_decay": 0.01}),
    "AdamW": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.5, "weight_decay": 0.0}),
    "Adafactor": (torch.optim.Adafactor, {"weight_decay": 0.0}),
}


def _module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("name", KINDS)
def test_steps_are_those_of_torch_optim(name: str, clip: float) -> None:
    kind, options = KINDS[name]
    x = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)
    usual, flat = _module(), _module()
    optimizer = kind(usual.parameters(), lr=0.02, **options)
    resident = Resident(flat, CPU)
    settings = TrainSettings.of({"lr": 0.02, "optimizer": name.split("-")[0], "clip": clip, **options})
    stepper = Stepper(settings, resident)
    for _ in range(5):
        optimizer.zero_grad()
        usual(x).square().sum().backward()
        if clip:
            nn.utils.clip_grad_norm_(usual.parameters(), clip)
        optimizer.step()
        stepper.zero()
        flat(x).square().sum().backward()
        stepper.step()
    for mine, theirs in zip(flat.parameters(), usual.parameters(), strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), theirs.detach().numpy(), rtol=1e-12, atol=1e-15)


def test_clipping_counts_slabs_of_all_dtypes_together() -> None:
    resident = Resident(nn.Sequential(nn.Linear(2, 2).double(), nn.Linear(2, 2)), CPU)
    for slab in resident.trained:
        assert slab.grad is not None
        slab.grad.fill_(3.0)
        slab.flat.zero_()
    Stepper(TrainSettings(lr=1.0, clip=1.0), resident).step()
    moved = sum(float(slab.flat.double().square().sum()) for slab in resident.trained)
    assert moved == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adan"}, "'adan' is not in torch.optim.*did you mean 'adam'"),
        ({"optimizer": "lbfgs"}, "cannot run step by step"),
        ({"optimizer": "adam", "momentum": 0.9}, "train.momentum: Adam has no such setting"),
        ({"optimizer": "rprop", "weight_decay": 0.1}, "train.weight_decay: Rprop"),
    ],
)
def test_what_torch_optim_does_not_have_is_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Stepper(TrainSettings.of(settings), Resident(_module(), CPU))
