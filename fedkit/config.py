"""A scenario as frozen dataclasses: pure data, one class per TOML section.

Every key has a default. `fedkit.scenario` reads the file, applies overrides and reports errors with
file, line and nearest key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from fedkit.messages import Settings

Options: TypeAlias = Mapping[str, object]


@dataclass(frozen=True)
class Population:
    """[population]: how a data set is divided among clients.

    clients: how many; None keeps what the data says (natural ids). partition: "natural" (client ids
    in the data), "iid", "dirichlet" (label distribution ~ Dir(alpha) per client, Hsu et al. 2019),
    "shards" (sorted by label, `shards` pieces per client, McMahan et al. 2017), "quantity" (sizes ~
    Dir(alpha)). min_examples: no client gets fewer.
    """

    clients: int | None = None
    partition: Literal["natural", "iid", "dirichlet", "shards", "quantity"] = "natural"
    alpha: float = 0.3
    shards: int = 2
    min_examples: int = 1


@dataclass(frozen=True)
class Rounds:
    """[rounds]: how many, and the fields of RoundPolicy. evaluate_on: "server" or "clients"."""

    count: int = 10
    cohort: int | float | None = None
    over_select: float = 1.0
    quorum: int | float = 1
    deadline: float = 600.0
    late: Literal["drop", "carry"] = "drop"
    carry_rounds: int = 3
    max_failures: int = 3
    evaluate_every: int = 1
    evaluate_on: Literal["server", "clients"] = "server"


@dataclass(frozen=True)
class StrategySection:
    """[strategy]: `name` is an entry point or FILE.py:Class; all other keys are its fields."""

    name: str = "fedavg"
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class CodecSection:
    """[codec]: spec strings for both directions.

    feedback: clients add what a biased codec left out to their next update; "auto" does so where
    the codec needs it and every client takes part in every round. down_base: a model difference
    down leads from the "last" version or from the "first"; "auto" takes the last where at least a
    third of the clients take part in each round.
    """

    up: str = "none"
    down: str = "none"
    feedback: Literal["auto", "on", "off"] = "auto"
    down_base: Literal["auto", "last", "first"] = "auto"


@dataclass(frozen=True)
class Aggregate:
    """[aggregate]: the grid. max_weight None asks the workload. max_delta bounds |delta| per entry."""

    max_weight: float | None = None
    max_delta: float = 256.0


@dataclass(frozen=True)
class SecAggSection:
    """[secagg]: the server sees the sum of a round's updates, and none of them.

    mode: against whom beside corrupt clients: a curious server that follows the protocol, or one that
    lies. width: bits of an entry of an update that no ring codec compresses; with 64 the sum is the plain
    one to the bit. corrupt, dropout: shares of the clients that may work with the server, or be lost.
    sigma: secrecy fails with at most 2^-sigma; 0: 80 with lying_server, else 40. n_min: fewer clients are
    never summed, nor in a session; 0: as many as stay if a share `dropout` is lost, or as the cohort where
    fewer are wanted. neighbours, threshold: how many hold shares of a client, and how many of them it takes;
    0: chosen for each session. retries: further sessions for a round whose first was aborted early enough.
    verify: in simulation, compare each sum with the plain one. suite: "auto" is "aes"; set "chacha" where
    clients have no AES instructions.
    """

    mode: Literal["off", "honest_server", "lying_server"] = "off"
    width: Literal[32, 64] = 32
    corrupt: float = 0.05
    dropout: float = 0.1
    sigma: int = 0
    n_min: int = 0
    neighbours: int = 0
    threshold: int = 0
    retries: int = 2
    verify: bool = False
    suite: Literal["auto", "aes", "chacha"] = "auto"


@dataclass(frozen=True)
class Links:
    """[links]: what connects clients; each number given overrides the profile's.

    up, down: bytes per second. latency: seconds one way. loss: share of packets lost, in [0, 1).
    spread: sigma of a log-normal factor per client on both rates.
    """

    profile: Literal["fibre", "wifi", "4g", "3g", "lorawan", "custom"] = "fibre"
    up: float | None = None
    down: float | None = None
    latency: float | None = None
    loss: float | None = None
    spread: float = 0.0


@dataclass(frozen=True)
class Devices:
    """[devices]: how fast and how reliable clients are.

    speed: training examples per second, overriding the profile's. spread: sigma of a log-normal
    factor per client. drop: probability that a client crashes in a round; drop_after: the share of
    those crashes that come after training rather than before. stragglers: share of each cohort that
    does only part of the work, uniform on {1..E}/E epochs. availability: "always"; "bernoulli"
    (each client there with probability `available` at each round); "markov" (on and off for
    exponential times of mean on_seconds and off_seconds).
    """

    profile: Literal["server", "laptop", "phone", "pi", "micro", "custom"] = "phone"
    speed: float | None = None
    spread: float = 0.0
    drop: float = 0.0
    drop_after: float = 0.5
    stragglers: float = 0.0
    availability: Literal["always", "bernoulli", "markov"] = "always"
    available: float = 1.0
    on_seconds: float = 3600.0
    off_seconds: float = 3600.0


@dataclass(frozen=True)
class FederationSection:
    """[federation]: `kind` is an entry point of fedkit.federations; other keys are its options."""

    kind: str = "simulation"
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class Stop:
    """[stop]: early stopping on an evaluation metric; off while `metric` is empty.

    target: stop when reached. patience: stop after so many evaluations without a better value (0:
    never). best: which way is better; "auto" takes "min" for losses and errors, else "max".
    """

    metric: str = ""
    target: float | None = None
    patience: int = 0
    best: Literal["auto", "max", "min"] = "auto"


@dataclass(frozen=True)
class Scenario:
    """One run, whole. `workload` is an entry point or FILE.py:ATTR; its options are checked against
    its parameters. train: what trainers read from Task.settings (epochs or steps, batch, lr ...).
    places: where each given key was written, for error messages.
    """

    workload: str = "digits"
    description: str = ""
    seed: int = 0
    workload_options: Options = field(default_factory=dict)
    population: Population = field(default_factory=Population)
    rounds: Rounds = field(default_factory=Rounds)
    strategy: StrategySection = field(default_factory=StrategySection)
    train: Settings = field(default_factory=dict)
    codec: CodecSection = field(default_factory=CodecSection)
    aggregate: Aggregate = field(default_factory=Aggregate)
    secagg: SecAggSection = field(default_factory=SecAggSection)
    links: Links = field(default_factory=Links)
    devices: Devices = field(default_factory=Devices)
    federation: FederationSection = field(default_factory=FederationSection)
    stop: Stop = field(default_factory=Stop)
    places: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
