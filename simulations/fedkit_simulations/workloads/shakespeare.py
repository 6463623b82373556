"""Next character of Shakespeare's lines; a client is one role of one play (McMahan et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkit.config import Population
from fedkit.errors import ConfigError
from fedkit.seeds import stream
from fedkit.trainer import Workload
from fedkit_clients.data import ClientArrays
from fedkit_simulations.population import partition
from fedkit_simulations.workloads.data import load

FILE = "shakespeare_roles.npz"
NATURAL = Population()
_KEYS: Mapping[str, tuple[int | str, ...]] = {
    "text": ("bytes",),
    "offsets": ("ends",),
    "test_start": ("roles",),
    "client_names": ("roles",),
    "play": ("roles",),
}


def shakespeare(
    *,
    data: str | None = None,
    hidden: int = 128,
    layers: int = 2,
    sequence: int = 80,
    stride: int = 80,
    min_chars: int = 1000,
    test_windows: int = 2000,
    population: Population = NATURAL,
    seed: int = 0,
) -> Workload:
    """Next-character LSTM on the roles of 37 plays; needs torch.

    Embedding of 8, `layers` LSTM layers of `hidden` units: 213,164 parameters with 76 characters.
    Examples are windows of `sequence` characters, one each `stride`; the target is every next
    character. Clients: roles with at least `min_chars` characters (639 of 1,339 by default) and one
    training window. The end of each role, about a fifth, is held out; the server tests on
    `test_windows` of these windows, drawn by `seed` (0: all). Source: McMahan et al. 2017,
    arXiv:1602.05629. Data file: shakespeare_roles.npz.
    """
    _positive(hidden=hidden, layers=layers, sequence=sequence, stride=stride)
    if test_windows < 0:
        raise ConfigError(f"workload shakespeare: test_windows = {test_windows}, must be 0 (all) or more")
    arrays = load(FILE, data, _KEYS)
    alphabet, codes = np.unique(arrays["text"], return_inverse=True)
    text = codes.astype(np.uint8)
    train, role = windows(arrays["offsets"][:-1], arrays["test_start"], sequence, stride)
    test, test_role = windows(arrays["test_start"], arrays["offsets"][1:], sequence, stride)
    long = np.diff(arrays["offsets"]) >= min_chars
    train, role, test = train[long[role]], role[long[role]], test[long[test_role]]
    if not len(train):
        raise ConfigError(f"workload shakespeare: no role has min_chars = {min_chars} and a training window")
    indices = partition(arrays["play"][role], population, seed, natural=arrays["client_names"][role])
    if 0 < test_windows < len(test):
        test = test[stream(seed, "shakespeare", "test").choice(len(test), test_windows)]
    pairs = np.lib.stride_tricks.sliding_window_view(text, sequence + 1)
    seen, held = pairs[train], pairs[test]
    clients = ClientArrays(seen[:, :-1], seen[:, 1:], indices)
    factory = partial(next_character, len(alphabet), hidden, layers)
    return _torch(factory, clients, (held[:, :-1], held[:, 1:]))


def _positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"workload shakespeare: {name} = {value}, must be at least 1")


def windows(
    starts: NDArray[Any], ends: NDArray[Any], sequence: int, stride: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First characters of all windows of sequence + 1 within [start, end), and the span of each."""
    room = np.maximum(ends.astype(np.int64) - starts - sequence - 1, -1)
    counts = np.where(room < 0, 0, room // stride + 1)
    span = np.repeat(np.arange(len(counts)), counts)
    position = np.arange(len(span)) - np.repeat(np.cumsum(counts) - counts, counts)
    return starts.astype(np.int64)[span] + stride * position, span


def next_character(characters: int, hidden: int, layers: int) -> Any:
    """The torch module: codes (n, t) to scores (n, t, characters) of the characters that follow."""
    from torch import Tensor, nn

    class NextCharacter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(characters, 8)
            self.lstm = nn.LSTM(8, hidden, layers, batch_first=True)
            self.out = nn.Linear(hidden, characters)

        def forward(self, codes: Tensor) -> Tensor:
            states, _ = self.lstm(self.embedding(codes.long()))
            scores: Tensor = self.out(states)
            return scores

    return NextCharacter()


def sequence_loss(scores: Any, targets: Any) -> Any:
    """Mean cross-entropy over all positions of scores (n, t, c) and targets (n, t)."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(scores.flatten(0, 1), targets.flatten().long())


def _torch(factory: Any, clients: ClientArrays, test: tuple[NDArray[Any], NDArray[Any]]) -> Workload:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise ConfigError("workload shakespeare needs torch: pip install 'fedkit[torch]'") from error
    from fedkit_clients.torch_trainer import TorchWorkload

    return TorchWorkload(factory, sequence_loss, clients, test=test)
