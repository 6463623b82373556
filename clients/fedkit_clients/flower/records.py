"""Models and messages in Flower's form. Here alone are messages made outside a Flower run."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from fedkit.tensors import Tensors

if TYPE_CHECKING:
    from flwr.app import ArrayRecord, Message, RecordDict

WEIGHT = "num-examples"
"""The metric by which Flower weighs replies."""
SERVER = 1
"""The node number of whoever asks, as Flower's SuperLink has it."""
HOUR = 3600.0


def record(model: Tensors) -> ArrayRecord:
    """The model in Flower's form, copied."""
    from flwr.app import Array, ArrayRecord

    return ArrayRecord({name: Array(np.asarray(array)) for name, array in model.items()})


def tensors(record: ArrayRecord) -> Tensors:
    """The arrays of a record, by name; ValueError for bytes that are no array."""
    return {name: array.numpy() for name, array in record.items()}


def request(content: RecordDict, kind: str, node: int) -> Message:
    """A message to a node, as a ClientApp gets it; kind: "train" or "evaluate"."""
    return _message(content, kind, SERVER, node)


def reply(model: Tensors, figures: Mapping[str, float], node: int) -> Message:
    """What a node that trained `model` answers; figures hold WEIGHT."""
    from flwr.app import MetricRecord, RecordDict

    metrics = MetricRecord({name: float(value) for name, value in figures.items()})
    return _message(RecordDict({"arrays": record(model), "metrics": metrics}), "train", node, SERVER)


def _message(content: RecordDict, kind: str, source: int, target: int) -> Message:
    """Flower's constructor asks its process for the run; given metadata, it asks for nothing."""
    from flwr.app import Message, Metadata

    about = Metadata(1, "1", source, target, "", "", time.time(), HOUR, kind)
    made: Message = Message(content=content, metadata=about)  # type: ignore[call-overload, unused-ignore]
    return made


@contextmanager
def quiet() -> Iterator[None]:
    """Without what Flower says of every round: what matters of it, fedkit says itself."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
