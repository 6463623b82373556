"""Flower's SecAgg+ (flwr 1.41 or 1.42), server and clients as they are; only the network is a call.

The four stages of its workflow run against the functions of its mod. Quantising and dequantising are not
counted, as encoding is not in secagg.py. Modules are loaded by name, as they are not public.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from tests.bench.secagg_session import Found, Shape

CONFIGS = "secaggplus_configs"
RESULT = "collect_masked_vectors"
STAGES = ("setup", "share_keys", RESULT, "unmask")
VALUE = 0.5
CLOSE = 1e-3


class Stopwatch:
    """CPU seconds between `with`s, less those spent in functions that are `left_out`."""

    def __init__(self) -> None:
        self.seconds = self.other = 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        before, self.other = time.process_time(), 0.0
        yield
        self.seconds += time.process_time() - before - self.other

    def left_out(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose time is not this watch's."""

        def timed(*args: Any, **named: Any) -> Any:
            before = time.process_time()
            made = call(*args, **named)
            self.other += time.process_time() - before
            return made

        return timed


def size_of(record: Mapping[str, Any]) -> int:
    """Bytes of the values alone; a number has 8."""
    lists = [value if isinstance(value, list) else [value] for value in record.values()]
    return sum(len(one) if isinstance(one, bytes | str) else 8 for values in lists for one in values)


class Node:
    """One client: the functions of Flower's mod."""

    def __init__(self, mod: ModuleType, number: int, vector: Any) -> None:
        self.mod, self.number, self.vector = mod, number, vector
        self.state = mod.SecAggPlusState()
        self.watch = Stopwatch()
        self.up = self.down = 0

    def answer(self, stage: str, configs: Any) -> Any:
        """A record in, a record out."""
        self.down += size_of(configs)
        quantize = self.watch.left_out(self.mod.quantize)
        with patch.object(self.mod, "quantize", quantize), self.watch():
            match stage:
                case "setup":
                    self.state.nid = self.number
                    made = self.mod._setup(self.state, configs)
                case "share_keys":
                    made = self.mod._share_keys(self.state, configs)
                case "collect_masked_vectors":
                    made = self.mod._collect_masked_vectors(self.state, configs, 1, self.vector)
                case _:
                    made = self.mod._unmask(self.state, configs)
        self.up += size_of(made)
        return self.mod.ConfigRecord(made)


class Grid:
    """The network: messages are handed over; `leaving` send no vector."""

    def __init__(self, nodes: dict[int, Node], leaving: frozenset[int], empty: Callable[[], Any]) -> None:
        self.nodes, self.leaving, self.empty = nodes, leaving, empty

    def send_and_receive(self, messages: Sequence[Any], timeout: float | None = None) -> list[Any]:
        return [reply for message in messages if (reply := self._reply(message)) is not None]

    def _reply(self, message: Any) -> Any:
        number, configs = message.dst_node_id, message.content.config_records[CONFIGS].copy()
        stage = configs.pop("stage")
        if stage == RESULT and number in self.leaving:
            return None
        content = self.empty()
        content.config_records[CONFIGS] = self.nodes[number].answer(stage, configs)
        source = SimpleNamespace(src_node_id=number)
        return SimpleNamespace(content=content, metadata=source, has_error=lambda: False)


def flower_sum(shape: Shape, found: Found) -> None:
    """One sum with k and t of `shape`, measured. ValueError: the mean is wrong."""
    mod = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
    flow = import_module("flwr.server.workflow.secure_aggregation.secaggplus_workflow")
    common = import_module("flwr.common")
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    vector = common.ndarrays_to_parameters([np.full(shape.size, VALUE, np.float32)])
    nodes = {number: Node(mod, number, vector) for number in range(shape.clients)}
    leaving = frozenset(number for number, name in enumerate(shape.names) if name in shape.leaving)
    result = common.FitRes(common.Status(common.Code.OK, ""), common.Parameters([], ""), 1, {})
    grid = Grid(nodes, leaving, lambda: flow.compat.fitres_to_recorddict(result, True))
    server, seen = _serve(flow, shape, grid, common)
    mean = common.parameters_to_ndarrays(seen)[0]
    if abs(mean - VALUE).max() > CLOSE:
        raise ValueError(f"Flower's mean is {mean[:3]}, not {VALUE}")
    staying = [node for number, node in nodes.items() if number not in leaving]
    found.server.append(server)
    found.client += [node.watch.seconds for node in staying]
    found.up, found.down = staying[0].up, staying[0].down


def _serve(flow: ModuleType, shape: Shape, grid: Grid, common: ModuleType) -> tuple[float, Any]:
    """CPU seconds of the server in a whole session, and the mean as Flower's Parameters."""
    k, t = shape.parameters.neighbours, shape.parameters.threshold
    steps, state, seen = flow.SecAggPlusWorkflow(k + 1, t, max_weight=1.0), flow.WorkflowState(), list[Any]()
    context, server = _context(flow, common, list(grid.nodes), seen), Stopwatch()
    with ExitStack() as stack:
        stack.enter_context(patch.object(flow, "Message", SimpleNamespace))
        stack.enter_context(patch.object(flow, "dequantize", server.left_out(flow.dequantize)))
        stack.enter_context(patch.object(grid, "send_and_receive", server.left_out(grid.send_and_receive)))
        for stage in STAGES:
            with server():
                if not getattr(steps, f"{stage}_stage")(grid, context, state):
                    raise ValueError(f"Flower's session stopped at {stage}")
    return server.seconds, seen[0]


def _context(flow: ModuleType, common: ModuleType, numbers: list[int], seen: list[Any]) -> Any:
    """What a workflow is called with. The mean of a session is put into `seen`."""
    nothing = common.Parameters([], "")

    def configure(*_: Any) -> Any:
        return [(SimpleNamespace(node_id=number), common.FitIns(nothing, {})) for number in numbers]

    def aggregate(_: int, results: Any, __: Any) -> Any:
        seen.append(results[0][1].parameters)
        return None, {}

    configs = {flow.MAIN_CONFIGS_RECORD: {"current_round": 1}}
    arrays = {flow.MAIN_PARAMS_RECORD: flow.compat.parameters_to_arrayrecord(nothing, True)}
    return SimpleNamespace(
        state=SimpleNamespace(config_records=configs, array_records=arrays),
        strategy=SimpleNamespace(configure_fit=configure, aggregate_fit=aggregate),
        client_manager=SimpleNamespace(num_available=lambda: len(numbers)),
    )
