"""One bad client of four: what becomes of the model in fedkit, and in Flower's own FedAvg.

    python tests/bench/flower_bad_client.py [ROUNDS]

Softmax regression on the digits of scikit-learn, 300 images a client. One ClientApp is trained by both: by
Flower's own loop (Strategy.start) over nodes in this process, and by fedkit's simulation. In fedkit the bad
update is tried twice: as the client's software makes it, where the client's half refuses it, and forged on
the wire behind that half's back, where the server does. Exits 1 unless all of fedkit's runs end with one and
the same model, that of the other clients, and name the bad one.
"""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from fedkit import run
from fedkit.federation import Arrival
from fedkit.messages import EncodedUpdate, Metrics
from fedkit.rounds import Result
from fedkit.tensors import Tensors, digest
from fedkit_clients.flower.apps import ClientApps
from fedkit_clients.flower.records import tensors
from fedkit_simulations.engine import Simulation
from fedkit_strategies import FedAvg

CLIENTS, BAD, EACH = 4, 1, 300
NOTHING = "none is bad"
Reply: TypeAlias = tuple[dict[str, NDArray[Any]], float]
Spoil: TypeAlias = Callable[[Reply], Reply]


def _nan(reply: Reply) -> Reply:
    reply[0]["weight"][0, 0] = np.nan
    return reply


def _replaced(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Spoil:
    return lambda reply: ({n: change(a) if n == name else a for n, a in reply[0].items()}, reply[1])


def _renamed(reply: Reply) -> Reply:
    return {n.replace("bias", "bais"): a for n, a in reply[0].items()}, reply[1]


SPOILS: Mapping[str, Spoil] = {
    NOTHING: lambda reply: reply,
    "a NaN in one entry": _nan,
    "num-examples -29": lambda reply: (reply[0], -29.0),
    "num-examples -870": lambda reply: (reply[0], -870.0),
    "shape (1,) for (10,), which broadcasts": _replaced("bias", lambda bias: bias[:1] + 5),
    "shape (9,) for (10,)": _replaced("bias", lambda bias: bias[:9]),
    "the name bais for bias": _renamed,
}


def _forge(update: EncodedUpdate, spoil: str) -> EncodedUpdate:
    """The same fault in the bytes of a reply: entries without names, so that no name can be wrong there."""
    if spoil == "a NaN in one entry":
        return replace(update, payload=np.float32(np.nan).tobytes() + update.payload[4:])
    if spoil.startswith("num-examples"):
        return replace(update, weight=SPOILS[spoil](({}, update.weight))[1])
    return update if spoil == NOTHING else replace(update, payload=update.payload[:-4])


class Forging(Simulation):
    """The simulation, in which a reply of the bad client is forged on its way."""

    spoil = ""

    def receive(self, until: float, want: int | None = None) -> Iterator[Arrival]:
        for arrival in super().receive(until, want):
            if arrival.key.client == str(BAD) and isinstance(arrival.reply, EncodedUpdate):
                arrival = replace(arrival, reply=_forge(arrival.reply, self.spoil))
            yield arrival


class Data:
    """The digits, dealt to the clients; the rest is the server's."""

    def __init__(self) -> None:
        x, y = import_module("sklearn.datasets").load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(y))
        self.x, self.y = (x[order] / 16).astype(np.float32), y[order]

    def of(self, client: int) -> tuple[NDArray[Any], NDArray[Any]]:
        part = slice(client * EACH, (client + 1) * EACH)
        return self.x[part], self.y[part]

    def accuracy(self, model: Tensors) -> float:
        """On the server's part; NaN for a model that is no number."""
        x, y = self.x[CLIENTS * EACH :], self.y[CLIENTS * EACH :]
        if not all(np.isfinite(array).all() for array in model.values()):
            return float("nan")
        return float(np.mean(np.argmax(x @ model["weight"] + model["bias"], axis=1) == y))


def descend(model: dict[str, NDArray[Any]], x: NDArray[Any], y: NDArray[Any]) -> None:
    """Ten steps of gradient descent on the cross-entropy, in place."""
    for _ in range(10):
        scores = x @ model["weight"] + model["bias"]
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        odds[np.arange(len(y)), y] -= 1
        model["weight"] -= x.T @ odds / len(y)
        model["bias"] -= odds.mean(axis=0)


def make_app(data: Data, spoil: Spoil) -> ClientApp:
    """The ClientApp that both frameworks train."""
    app = ClientApp()

    def train(message: Message, context: Any) -> Message:
        number = context.node_config["partition-id"]
        model = dict(tensors(message.content.array_records["arrays"]))
        descend(model, *data.of(number))
        made, count = spoil((model, float(EACH))) if number == BAD else (model, float(EACH))
        arrays = ArrayRecord({name: Array(np.asarray(array)) for name, array in made.items()})
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": count})})
        return Message(content, reply_to=message)

    app.train()(train)
    return app


class Nodes:
    """Flower's Grid over nodes in this process, each with the context that fedkit's workload gives it."""

    def __init__(self, app: ClientApp, contexts: Sequence[Any]) -> None:
        self.app, self.contexts = app, contexts

    def get_node_ids(self) -> Iterable[int]:
        return range(len(self.contexts))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return [self.app(m, self.contexts[m.metadata.dst_node_id]) for m in messages]


START: Tensors = {"weight": np.zeros((64, 10), np.float32), "bias": np.zeros(10, np.float32)}


def in_flower(data: Data, app: ClientApp, rounds: int) -> str:
    """What becomes of the model in Flower's own loop."""
    contexts = list(ClientApps(START, app, CLIENTS).contexts.values())
    arrays = ArrayRecord({name: Array(np.array(array)) for name, array in START.items()})
    grid: Any = Nodes(app, contexts)
    seen: list[str] = []

    def measure(round: int, model: ArrayRecord) -> None:
        accuracy = data.accuracy(tensors(model))
        seen.append("NaN" if np.isnan(accuracy) else f"{accuracy:.3f}")

    random.seed(0)  # by which Flower draws the order of its nodes
    try:
        FlowerFedAvg(fraction_evaluate=0.0).start(grid, arrays, num_rounds=rounds, evaluate_fn=measure)
    except Exception as error:  # noqa: BLE001 - what it raises is the result
        return f"{seen[-1]} after {len(seen) - 1} rounds, then the run ends: {type(error).__name__}"
    return seen[-1] + (f" from round {seen.index('NaN')} on" if "NaN" in seen else "")


def in_fedkit(data: Data, app: ClientApp, rounds: int, forge: str = "") -> Result:
    """The run in fedkit; with `forge`, the bad client's replies are spoilt on the wire."""

    def evaluate(model: Tensors) -> Metrics:
        return {"accuracy": data.accuracy(model)}

    workload = ClientApps(START, app, CLIENTS, evaluate)
    federation = Forging(workload)
    federation.spoil = forge or NOTHING
    return run(FedAvg(), workload, federation, rounds=rounds)


def told(got: Result) -> str:
    """The accuracy, and what the history says of the bad client in the last round."""
    why = got.history.rounds[-1].fates[str(BAD)].why
    return f"{got.summary['metrics']['accuracy']:.3f}" + (f"; client {BAD}: {why}" if why else "")


def main(rounds: int) -> int:
    """Print the table; 1 if a run of fedkit does not name the client, or its model depends on the fault."""
    logging.disable(logging.CRITICAL)
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    data, models, named = Data(), set[str](), True
    print("| client 1 of 4 | Flower's FedAvg | fedkit, refused at the client | fedkit, forged on the wire |")
    print("|---|---|---|---|")
    for name, spoil in SPOILS.items():
        app, honest = make_app(data, spoil), make_app(data, SPOILS[NOTHING])
        runs = (in_fedkit(data, app, rounds), in_fedkit(data, honest, rounds, name))
        print(f"| {name} | {in_flower(data, app, rounds)} | {' | '.join(told(got) for got in runs)} |")
        if name != NOTHING:
            models |= {digest(got.model) for got in runs}
            named &= all(got.history.rounds[-1].fates[str(BAD)].why != "" for got in runs)
    return int(len(models) != 1 or not named)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
