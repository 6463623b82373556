"""An existing Flower ClientApp as a fedkit workload.

    workload = ClientApps(Net().state_dict(), app, 10)

The app runs in this process and gets the messages that a SuperNode would hand it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from fedkit.errors import ClientFailed
from fedkit.messages import ClientId
from fedkit.tensors import Tensors
from fedkit_clients.flower.guard import demand_flower
from fedkit_clients.flower.records import WEIGHT, record, request, tensors
from fedkit_clients.flower.trainers import Config, Evaluate, FlowerWorkload

if TYPE_CHECKING:
    from flwr.app import Context, RecordDict
    from flwr.clientapp import ClientApp


class ClientApps(FlowerWorkload):
    """One ClientApp, called for each client with a context of its own.

    clients: their ids, or how many ("0", "1" ...). The context's node_config holds "partition-id" and
    "num-partitions", its run_config what the app has under [tool.flwr.app.config]; its state lives as long
    as this process. Other parameters: see FlowerWorkload.
    """

    def __init__(
        self,
        model: object,
        app: ClientApp,
        clients: int | Sequence[ClientId],
        evaluate: Evaluate | None = None,
        examples: Mapping[ClientId, int] | None = None,
        run_config: Config | None = None,
    ) -> None:
        demand_flower()
        super().__init__(model, evaluate, examples)
        self._app = app
        self._names = tuple(map(str, range(clients))) if isinstance(clients, int) else tuple(clients)
        contexts = [_context(k, len(self._names), run_config or {}) for k in range(len(self._names))]
        self.contexts = dict(zip(self._names, contexts, strict=True))
        self._words: Words = Registered() if getattr(app, "_call", None) is None else ClientFn()

    def clients(self) -> Sequence[ClientId]:
        return self._names

    def fit(self, client: ClientId, model: Tensors, config: Config) -> tuple[Tensors, object, object]:
        content = self._asked(client, model, config, "train")
        return self._words.model(content, model), *self._words.figures(content)

    def score(self, client: ClientId, model: Tensors, config: Config) -> tuple[object, object]:
        return self._words.figures(self._asked(client, model, config, "evaluate"))

    def _asked(self, client: ClientId, model: Tensors, config: Config, kind: str) -> RecordDict:
        """The content of the app's reply; ClientFailed if it answers with an error."""
        context = self.contexts[client]
        reply = self._app(request(self._words.content(model, config, kind), kind, context.node_id), context)
        if reply.has_error():
            raise ClientFailed("exception", "ClientApp", f"answered with error {reply.error.code}")
        return reply.content


class Words(Protocol):
    """How an app is told of a task, and where its answer is."""

    def content(self, model: Tensors, config: Config, kind: str) -> RecordDict:
        """The task; kind: "train" or "evaluate"."""
        ...

    def model(self, content: RecordDict, sent: Tensors) -> Tensors:
        """The trained model of a reply."""
        ...

    def figures(self, content: RecordDict) -> tuple[object, object]:
        """(number of examples, metrics) of a reply."""
        ...


class Registered:
    """The words of `@app.train()` and `@app.evaluate()`."""

    def content(self, model: Tensors, config: Config, kind: str) -> RecordDict:
        from flwr.app import ConfigRecord, RecordDict

        return RecordDict({"arrays": record(model), "config": ConfigRecord(dict(config))})

    def model(self, content: RecordDict, sent: Tensors) -> Tensors:
        arrays = list(content.array_records.values())
        if len(arrays) != 1:
            raise ClientFailed("update", "arrays", f"the reply has {len(arrays)} ArrayRecords, not one")
        made = tensors(arrays[0])
        if odd := sorted(made.keys() - sent.keys()):
            raise ClientFailed("update", odd[0], "is in the reply, but the model has no such tensor")
        return made

    def figures(self, content: RecordDict) -> tuple[object, object]:
        records = list(content.metric_records.values())
        if len(records) != 1:
            raise ClientFailed("update", "metrics", f"the reply has {len(records)} MetricRecords, not one")
        metrics = dict(records[0])
        return metrics.pop(WEIGHT, None), metrics


class ClientFn:
    """The words of apps made with `client_fn`, which Flower keeps for older projects: lists without names."""

    def content(self, model: Tensors, config: Config, kind: str) -> RecordDict:
        from flwr.app import ConfigRecord, RecordDict

        head = "fitins" if kind == "train" else "evaluateins"
        listed = {str(number): array for number, array in enumerate(model.values())}
        return RecordDict(
            {f"{head}.parameters": record(listed), f"{head}.config": ConfigRecord(dict(config))}
        )

    def model(self, content: RecordDict, sent: Tensors) -> Tensors:
        self._demand_success(content, "fitres")
        arrays = list(tensors(content.array_records["fitres.parameters"]).values())
        if len(arrays) != len(sent):
            raise ClientFailed("update", "parameters", f"are {len(arrays)} arrays, the model has {len(sent)}")
        return dict(zip(sent, arrays, strict=True))

    def figures(self, content: RecordDict) -> tuple[object, object]:
        head = "fitres" if "fitres.status" in content else "evaluateres"
        self._demand_success(content, head)
        metrics: dict[str, object] = dict(content.config_records[f"{head}.metrics"])
        if head == "evaluateres":
            metrics = {**content.metric_records["evaluateres.loss"], **metrics}
        return content.metric_records[f"{head}.num_examples"]["num_examples"], metrics

    def _demand_success(self, content: RecordDict, head: str) -> None:
        status = content.config_records[f"{head}.status"]
        if status["code"] != 0:
            raise ClientFailed("exception", "ClientApp", f"answered {status['message']!r}")


def _context(number: int, count: int, run_config: Config) -> Context:
    from flwr.app import Context, RecordDict

    partition: Config = {"partition-id": number, "num-partitions": count}
    return Context(1, number + 2, partition, RecordDict(), dict(run_config))
