"""What a model is worth: its metrics on the server's data, or a sum of the clients' own."""

from __future__ import annotations

import logging
from typing import NamedTuple

from fedkit.collect import Collected
from fedkit.history import History, SecureRecord
from fedkit.job import Job
from fedkit.messages import Metrics
from fedkit.tensors import Tensors
from fedkit.trainer import Workload
from fedkit.usercode import called, returned_metrics

NOTHING = (
    "nothing will be evaluated: the workload has no test data; give it some, or set evaluate_on to 'clients'"
)
log = logging.getLogger("fedkit")


class Measured(NamedTuple):
    """Metrics of a model. secagg: how they were summed in secret; aborted: why they were not."""

    metrics: Metrics
    secagg: SecureRecord | None = None
    aborted: str = ""


def on_server(workload: Workload, model: Tensors) -> Measured:
    """By the workload, on data of the server's. RunFailed, naming it, for what it raises or returns."""
    name = f"workload {type(workload).__name__}.evaluate"
    with called(name):
        found = workload.evaluate(model)
    return Measured(returned_metrics(found, name))


def of_clients(got: Collected, rounds: int) -> Measured:
    """The weighted mean of what the clients told after so many rounds."""
    if got.aborted:
        log.warning("after %d rounds the clients' metrics are not known: %s", rounds, got.aborted)
    return Measured(dict(got.total.metrics), got.secagg, got.aborted)


def measured_before(job: Job, history: History) -> bool:
    """Whether clients have summed their metrics of the present model in secret, or tried.

    They do it once: a second sum, over others, would differ from the first by the metrics of one client.
    """
    if job.secagg is None:
        return False
    for record in reversed(history.rounds):
        if record.secagg_evaluate is not None:
            return True
        if record.ok:
            return False
    return True
