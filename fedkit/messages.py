"""What the server and a client say to each other, and what training takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from fedkit.tensors import State, Tensors

ClientId: TypeAlias = str
MOST_ID_BYTES: Final = 255
"""Of UTF-8: the length of an id is one byte where it travels."""
Settings: TypeAlias = Mapping[str, float | int | str | bool]
Metrics: TypeAlias = Mapping[str, float]
SCALE = "codec.scale"
"""Setting of a task: the public scale of the round's sum, for codecs that need one."""

Kind: TypeAlias = Literal["train", "evaluate"]


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Names one exchange. `stage` is empty outside secure aggregation; `attempt` counts from 0."""

    job: str
    round: int
    kind: Kind
    stage: str
    attempt: int
    client: ClientId


@dataclass(frozen=True, slots=True)
class Task:
    """Server to client: train (or evaluate) from this model.

    work: share of the local training asked for, in (0, 1]. deadline: when the round closes, expires:
    when the task is void (later where late updates are carried); both in seconds on the federation's
    clock, finite. context: tensors for the client half of the strategy.
    """

    key: Key
    version: int
    model: Tensors
    context: State
    settings: Settings
    seed: int
    work: float
    expires: float
    session: str = ""
    deadline: float = 0.0


@dataclass(frozen=True, slots=True)
class Pass:
    """One run of local training: from `start`, with `anchor` and `extra` handed to Strategy.correct.

    start may name more tensors than the anchor (those that stay with the client). Each member of
    extra has the names of the anchor.
    """

    start: Tensors
    anchor: Tensors
    extra: State = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trained:
    """What one Pass made: delta = trained - start, over the names of start.

    steps: optimiser steps taken. examples: size of the client's data set.
    """

    delta: Tensors
    steps: int
    examples: float
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Update:
    """What local training made, as the strategy wants it: delta = trained - received.

    weight: its share in the mean, >= 0. extras: tensors summed unweighted. work: share done.
    """

    delta: Tensors
    weight: float
    metrics: Metrics = field(default_factory=dict)
    extras: Tensors = field(default_factory=dict)
    work: float = 1.0


@dataclass(frozen=True, slots=True)
class EncodedUpdate:
    """An Update dressed for travel: the payload holds the delta, then the extras."""

    key: Key
    codec: str
    payload: bytes
    weight: float
    metrics: Metrics
    work: float


@dataclass(frozen=True, slots=True)
class Failure:
    """A client could not do its task.

    code: a short word ("exception", "diverged", "no_data" ...). exception: its class name. subject:
    a name known to the job (tensor, codec, plugin) or a figure of the grid. detail: the traceback;
    it never leaves a device.
    """

    key: Key
    code: str
    exception: str = ""
    subject: str = ""
    detail: str = ""
