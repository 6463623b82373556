"""Flower's strategies as fedkit's: `strategy.name = "flower:FedAdam"`.

Fields and their defaults are Flower's, less those that fedkit has elsewhere: how clients are sampled
([rounds]), what an update weighs (its examples) and how metrics are averaged (by weight).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from fedkit.errors import ConfigError, PluginError, nearest, shown
from fedkit.messages import ClientId, Settings, Update
from fedkit.tensors import Array, State
from fedkit_clients.flower.adapter import EachUpdate, FlowerStrategy
from fedkit_clients.flower.trainers import PROXIMAL

_MOST = math.log(1e30)
"""A delta times this still fits float32."""


@dataclass(frozen=True)
class FedAvg(FlowerStrategy):
    """Weighted mean (McMahan et al. 2017, arXiv:1602.05629)."""


@dataclass(frozen=True)
class FedAvgM(FlowerStrategy):
    """Server momentum (Hsu, Qi, Brown 2019, arXiv:1909.06335)."""

    kept: ClassVar[tuple[str, ...]] = ("momentum_vector",)
    listed: ClassVar[frozenset[str]] = frozenset({"momentum_vector"})

    server_learning_rate: float = 1.0
    server_momentum: float = 0.0


@dataclass(frozen=True)
class _Adaptive(FlowerStrategy):
    """What Adagrad, Adam and Yogi keep, and between which bounds they can divide."""

    kept: ClassVar[tuple[str, ...]] = ("m_t", "v_t")

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, value in vars(self).items():
            if key.startswith("beta") and not 0 <= value < 1:
                raise ConfigError(f"strategy.{key} = {value}: must be at least 0 and below 1")
            if key == "tau" and value <= 0:
                raise ConfigError(f"strategy.tau = {value}: must be above 0")


@dataclass(frozen=True)
class FedAdagrad(_Adaptive):
    """Adagrad on the server (Reddi et al. 2020, arXiv:2003.00295)."""

    eta: float = 1e-1
    eta_l: float = 1e-1
    tau: float = 1e-3


@dataclass(frozen=True)
class FedAdam(_Adaptive):
    """Adam on the server (Reddi et al. 2020, arXiv:2003.00295)."""

    eta: float = 1e-1
    eta_l: float = 1e-1
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3


@dataclass(frozen=True)
class FedYogi(_Adaptive):
    """Yogi on the server (Reddi et al. 2020, arXiv:2003.00295)."""

    eta: float = 1e-2
    eta_l: float = 0.0316
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3


@dataclass(frozen=True)
class FedProx(FlowerStrategy):
    """A pull towards the received model (Li et al. 2018, arXiv:1812.06127).

    Flower leaves the pull to its clients, and so tells them of it; fedkit's trainers apply `correct`.
    """

    proximal_mu: float = 0.0

    def settings(self, state: State, round: int) -> Settings:
        return {PROXIMAL: self.proximal_mu}

    def correct(self, grad: Array, weight: Array, anchor: Array, extra: Mapping[str, Array]) -> Array:
        return grad + self.proximal_mu * (weight - anchor)


@dataclass(frozen=True)
class FedMedian(EachUpdate):
    """Coordinate-wise median (Yin et al. 2018, arXiv:1803.01498)."""


@dataclass(frozen=True)
class FedTrimmedAvg(EachUpdate):
    """Coordinate-wise mean without the share `beta` at either end (Yin et al. 2018, arXiv:1803.01498)."""

    beta: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta < 0.5:
            raise ConfigError(f"strategy.beta = {self.beta}: must be at least 0 and below 0.5")


@dataclass(frozen=True)
class Krum(EachUpdate):
    """The update that is nearest to its neighbours (Blanchard et al. 2017, arXiv:1703.02757)."""

    num_malicious_nodes: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("num_malicious_nodes", self.num_malicious_nodes, 0)


@dataclass(frozen=True)
class MultiKrum(EachUpdate):
    """The mean of those that are nearest to their neighbours (Blanchard et al. 2017, arXiv:1703.02757)."""

    num_malicious_nodes: int = 0
    num_nodes_to_select: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("num_malicious_nodes", self.num_malicious_nodes, 0)
        _at_least("num_nodes_to_select", self.num_nodes_to_select, 1)


@dataclass(frozen=True)
class Bulyan(EachUpdate):
    """Krum, then a trimmed mean around the median (El Mhamdi et al. 2018, arXiv:1802.07927).

    A round with fewer than 4 * num_malicious_nodes + 3 updates fails: let rounds.quorum ask for so many.
    """

    num_malicious_nodes: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("num_malicious_nodes", self.num_malicious_nodes, 0)


@dataclass(frozen=True)
class QFedAvg(EachUpdate):
    """More weight for clients with a higher loss (Li et al. 2019, arXiv:1905.10497).

    train_loss_key: the metric that holds the loss; fedkit's trainers call it "loss". Whoever overstates it
    takes the model over: this rule trusts its clients.
    """

    client_learning_rate: float
    q: float = 0.1
    train_loss_key: str = "train_loss"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.client_learning_rate <= 0:
            raise ConfigError(f"strategy.client_learning_rate = {self.client_learning_rate}: must be above 0")

    def figures(self, client: ClientId, update: Update) -> Mapping[str, float]:
        known = super().figures(client, update)
        loss = update.metrics.get(self.train_loss_key)
        if loss is None:
            hint = nearest(self.train_loss_key, update.metrics)
            raise ValueError(
                f"it reports no metric {self.train_loss_key!r} (strategy.train_loss_key); {hint}"
            )
        if loss < 0:
            raise ValueError(f"its {self.train_loss_key!r} is {loss:g}: a loss must not be negative")
        if self.q * math.log(loss + 1e-10) - math.log(self.client_learning_rate) > _MOST:
            raise ValueError(f"its {self.train_loss_key!r} is {loss:g}: to the power of q it leaves float32")
        return {**known, self.train_loss_key: loss}


_ALL = (
    *(FedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi, FedProx),
    *(FedMedian, FedTrimmedAvg, Krum, MultiKrum, Bulyan, QFedAvg),
)
STRATEGIES: Mapping[str, type[FlowerStrategy]] = MappingProxyType({kind.__name__: kind for kind in _ALL})

_PRIVACY = "it wraps another strategy, which a scenario cannot name, and "
_CLIENTS = _PRIVACY + "needs a Flower mod in every client: what clients do is fedkit's here"
_SERVER = _PRIVACY + "draws its noise without a seed, so that no run could be repeated or continued"
_TREES = "it averages no tensors, but joins the trees of XGBoost models, which have no fixed layout"
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "DifferentialPrivacyClientSideAdaptiveClipping": _CLIENTS,
        "DifferentialPrivacyClientSideFixedClipping": _CLIENTS,
        "DifferentialPrivacyServerSideAdaptiveClipping": _SERVER,
        "DifferentialPrivacyServerSideFixedClipping": _SERVER,
        "FedXgbBagging": _TREES,
        "FedXgbCyclic": _TREES,
    }
)
"""What flwr.serverapp.strategy has beside, and why it cannot run in fedkit."""


def named(name: str = "") -> type[FlowerStrategy]:
    """Flower's own, as in flower:FedAdam: FedAvg, FedAvgM, FedAdam, FedYogi, Krum, Bulyan, QFedAvg ...

    PluginError, with the nearest name or the reason, for one that is not there or cannot be used.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    if name in REFUSED:
        raise PluginError(f"strategy 'flower:{name}' cannot be used in fedkit: {REFUSED[name]}")
    known = [f"flower:{known}" for known in STRATEGIES]
    if not name:
        raise PluginError(f"strategy 'flower': say which of Flower's; known: {', '.join(known)}")
    raise PluginError(f"unknown strategy {shown(f'flower:{name}')}; {nearest(f'flower:{name[:200]}', known)}")


def _at_least(key: str, value: int, low: int) -> None:
    if value < low:
        raise ConfigError(f"strategy.{key} = {value}: must be at least {low}")
