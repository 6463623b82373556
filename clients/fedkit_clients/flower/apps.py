"""An existing Flower ClientApp as a fedkit workload.

    workload = ClientApps(Net().state_dict(), app, 10)

The app runs in this process and gets the messages that a SuperNode would hand it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fedkit.errors import ClientFailed, ConfigError
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
    as this process. Other parameters: see FlowerWorkload. Raises ConfigError for a ClientApp that is made
    with `client_fn`: give what that returns to NumPyClients.
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
        if getattr(app, "_call", None) is not None:
            raise ConfigError(
                "this ClientApp is made with client_fn, which Flower keeps for old projects: give what "
                "client_fn returns to NumPyClients, as in NumPyClients(model, {name: MyClient(...)})"
            )

    def clients(self) -> Sequence[ClientId]:
        return self._names

    def fit(self, client: ClientId, model: Tensors, config: Config) -> tuple[Tensors, object, object]:
        content = self._asked(client, model, config, "train")
        arrays = list(content.array_records.values())
        if len(arrays) != 1:
            raise ClientFailed("update", "arrays", f"the reply has {len(arrays)} ArrayRecords, not one")
        made = tensors(arrays[0])
        if odd := sorted(made.keys() - model.keys()):
            raise ClientFailed("update", odd[0], "is in the reply, but the model has no such tensor")
        return made, *_figures(content)

    def score(self, client: ClientId, model: Tensors, config: Config) -> tuple[object, object]:
        return _figures(self._asked(client, model, config, "evaluate"))

    def _asked(self, client: ClientId, model: Tensors, config: Config, kind: str) -> RecordDict:
        """The content of the app's reply; ClientFailed if it answers with an error."""
        from flwr.app import ConfigRecord, RecordDict

        context = self.contexts[client]
        content = RecordDict({"arrays": record(model), "config": ConfigRecord(dict(config))})
        reply = self._app(request(content, kind, context.node_id), context)
        if reply.has_error():
            raise ClientFailed("exception", "ClientApp", f"answered with error {reply.error.code}")
        return reply.content


def _figures(content: RecordDict) -> tuple[object, object]:
    """(number of examples, the other metrics) of a reply."""
    records = list(content.metric_records.values())
    if len(records) != 1:
        raise ClientFailed("update", "metrics", f"the reply has {len(records)} MetricRecords, not one")
    metrics = dict(records[0])
    return metrics.pop(WEIGHT, None), metrics


def _context(number: int, count: int, run_config: Config) -> Context:
    from flwr.app import Context, RecordDict

    partition: Config = {"partition-id": number, "num-partitions": count}
    return Context(1, number + 2, partition, RecordDict(), dict(run_config))
