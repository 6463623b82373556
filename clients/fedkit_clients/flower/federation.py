"""FlowerFederation: a Federation over Flower's Grid.

A node is asked who it is before it is sent anything; it may be several clients. It gets one message at a
time, as Flower's nodes read what they keep when a message comes and write it whole afterwards: requests for
a busy node wait and then travel together, with the verdicts that it has not heard of. A node that lets a
message expire is asked again who it is.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from fedkit import fields, jobfile, wire
from fedkit.downlink import Release
from fedkit.dressing import max_bytes
from fedkit.errors import WireError
from fedkit.federation import Arrival, Reply, Request, Standing, Traffic, Verdict
from fedkit.job import Job
from fedkit.messages import ClientId, EncodedUpdate, Failure, Key, Task
from fedkit.secagg.messages import FromClient
from fedkit.secureclient import task_key
from fedkit.strategy import Strategy
from fedkit.tensors import State
from fedkit_clients.flower import fleet
from fedkit_clients.flower.fleet import Fleet
from fedkit_clients.flower.node import UP
from fedkit_clients.flower.nodes import Flight, Node, Nodes
from fedkit_clients.flower.parcel import Row, only, pack, unpack

log = logging.getLogger("fedkit.flower")
PAUSE = 0.1
"""Seconds between two looks for replies."""
SOON = 30.0
"""Seconds for a message that nothing else limits, and for the last verdicts of a run."""


class FlowerFederation:
    """The clients of a fleet: `FlowerFederation(GridFleet(grid))`.

    wait_for: before a round, wait until so many clients can be reached, for at most `patience` seconds; then
    go on with those that there are.
    """

    def __init__(self, fleet: Fleet, *, wait_for: int = 1, patience: float = 120.0) -> None:
        self._fleet, self._wait_for, self._patience = fleet, wait_for, patience
        self._nodes = Nodes()
        self._secure = False
        self._open: dict[Key, float] = {}  # unanswered requests, and when each expires
        self._expires: dict[Key, float] = {}  # of tasks, for the stages of their sessions
        self._untold: dict[Key, Verdict] = {}  # of tasks, until their nodes have heard
        self._arrived: deque[Arrival] = deque()
        self._up = self._down = 0

    def open(self, job: Job) -> None:
        """Keep the job: it travels with every message. ConfigError if nodes could not be told of it."""
        self._told, self._secure = jobfile.encode(job), job.secagg is not None
        kept = any(getattr(type(job.strategy), n) is not getattr(Strategy, n) for n in ("finish", "shared"))
        self._clients_remember = kept or job.feedback
        self._body_limit = max(max_bytes(job), job.layout.nbytes) * 4 + (1 << 20)

    def publish(self, release: Release) -> None:
        """Nothing: each task brings its model whole."""

    def clients(self) -> Sequence[ClientId]:
        """The clients of the nodes that have said who they are; waits for enough of them."""
        end, told = self.now() + self._patience, False
        while True:
            self._look()
            found = self._nodes.clients()
            if len(found) >= self._wait_for or self.now() >= end:
                return found
            if not told:
                log.warning("waiting for clients: %d of %d can be reached", len(found), self._wait_for)
            told = True
            time.sleep(PAUSE)

    def now(self) -> float:
        """Unix time."""
        return time.time()

    def traffic(self) -> Traffic:
        """Bytes of parcels."""
        return Traffic(self._up, self._down)

    def send(self, requests: Iterable[Request]) -> None:
        """Queue requests for their nodes, and send to those that are idle."""
        touched: dict[int, Node] = {}
        for request in requests:
            key = request.key
            if key in self._open or key in self._expires:
                continue
            if isinstance(request, Task):
                expires = self._expires[key] = request.expires
            else:
                expires = self._expires.get(task_key(key), self.now() + SOON)
            self._open[key] = expires
            node = self._nodes.of(key.client)
            if node is not None:
                node.queue[key] = request
                touched[node.id] = node
        for node in touched.values():
            if node.flight is None:
                self._send_to(node)

    def receive(self, until: float, want: int | None = None) -> Iterator[Arrival]:
        """Replies as they come; when they are found is when they came."""
        idle = not self._open and not self._arrived
        while True:
            over = self.now() >= until
            self._poll()
            over = over or not (idle or self._open)
            while self._arrived and self._arrived[0].at <= until:
                yield self._arrived.popleft()
            if over:
                return
            time.sleep(min(PAUSE, max(until - self.now(), 0.0)))

    def outstanding(self) -> Mapping[Key, Standing]:
        """Requests without a reply; alive where their node is thought to be there."""
        return {key: self._standing(key) for key in self._open}

    def settle(self, verdicts: Mapping[Key, Verdict]) -> None:
        """Close requests. Nodes are told of their tasks' fates with the next message that they get."""
        for key, verdict in verdicts.items():
            self._open.pop(key, None)
            node = self._nodes.of(key.client)
            unsent = node.queue.pop(key, None) if node is not None else None
            if self._expires.pop(key, None) is not None and unsent is None:
                self._untold[key] = verdict

    def save(self) -> State:
        """The bytes so far: what nodes keep is theirs, and gone when the run in Flower ends."""
        return {"traffic": {"bytes": np.array([self._up, self._down], np.int64)}}

    def load(self, state: State) -> None:
        """Continue from `save`; requests are sent again."""
        if self._clients_remember:
            log.warning("clients begin without memory of earlier rounds: Flower drops it when its run ends")
        self._up, self._down = (int(n) for n in state["traffic"]["bytes"])

    def close(self) -> None:
        """After a run of secure sessions: tell nodes the last verdicts, so that no secret stays with them."""
        end = self.now() + SOON
        while self._secure and self.now() < end:
            self._poll()
            idle = [node for node in self._nodes.known() if node.flight is None]
            for node in idle:
                if self._news(node):
                    self._send_to(node, end)
            if not any(map(self._news, self._nodes.known())):
                return
            time.sleep(PAUSE)

    # What happens to nodes

    def _look(self) -> None:
        """Ask who is new or has let a message expire, and take what has come."""
        for number, flight in self._nodes.flights().values():
            if self.now() > flight.expires:
                self._nodes.lose(number)
        ttl = max(self._patience, SOON)  # in less, no node of Flower answers anything
        for number in self._nodes.reach(self._fleet.nodes()):
            message = self._fleet.push(number, "query.hello", pack([]), ttl)
            if message:
                self._nodes.greet(number, Flight(message, self.now() + ttl))
        self._poll()

    def _news(self, node: Node) -> dict[Key, Verdict]:
        """Verdicts that a node has not heard of."""
        return {key: verdict for key, verdict in self._untold.items() if key.client in node.clients}

    def _send_to(self, node: Node, until: float = 0.0) -> None:
        """One parcel with all that waits for an idle node. until: when it expires, if no request says."""
        requests, node.queue = node.queue, {}
        news = self._news(node)
        rows = [Row("job", (), self._told), Row("kept", (node.turn,))]
        rows += [Row("verdict", (wire.key_row(key), verdict.value)) for key, verdict in news.items()]
        rows += [Row("request", (), wire.encode(request)) for request in requests.values()]
        expires = max((self._open.get(key, until) for key in requests), default=until)
        blob = pack(rows)
        message = self._fleet.push(node.id, "train", blob, max(expires - self.now(), 1.0))
        if not message:
            self._fail(requests, "flower", ("NOT_SENT", ""))
            return
        self._down += len(blob)
        node.flight = Flight(message, expires, tuple(requests), news)

    def _poll(self) -> None:
        """Take replies, and send to nodes that are idle again."""
        flights = self._nodes.flights()
        for reply in self._fleet.pull(list(flights)) if flights else ():
            if reply.message in flights:
                self._take(flights.pop(reply.message), reply)
        for node in self._nodes.known():
            if node.queue and node.flight is None:
                self._send_to(node)

    def _take(self, sent: tuple[int, Flight], reply: fleet.Reply) -> None:
        """A node has answered, or Flower in its place."""
        (number, flight), node = sent, self._nodes.node(sent[0])
        self._up += len(reply.blob)
        try:
            if reply.error is not None:
                code, kind = reply.error
                log.error("node %d: %s", number, " ".join(filter(None, (code, kind, "(its log says more)"))))
                self._fail(flight.keys, "flower", reply.error)
                self._nodes.lose(number, for_good=node is None and bool(kind))
            elif node is None:
                self._nodes.welcome(number, reply.blob)
            else:
                node.flight = None
                self._answers(node, flight, reply.blob)
        except WireError as error:
            log.error("node %d: %s", number, error)
            self._fail(flight.keys, "wire", ("WireError", ""))
            self._nodes.lose(number)

    def _answers(self, node: Node, flight: Flight, blob: bytes) -> None:
        rows = unpack(blob, *UP)
        replies = [self._reply(row.data, flight) for row in rows if row.kind == "reply"]
        (turn,) = fields.items(list(only(rows, "kept").fields), "kept", 1)
        node.turn = fields.integer(turn, "turn")
        for key, verdict in flight.told.items():
            if self._untold.get(key) is verdict:
                del self._untold[key]
        for reply in replies:
            self._arrive(reply.key, reply)
        missing = [key for key in flight.keys if key not in {reply.key for reply in replies}]
        for key in missing:
            self._open.pop(key, None)  # a task of secure sessions: they bring its answers

    def _reply(self, data: bytes, flight: Flight) -> EncodedUpdate | Failure | FromClient:
        found = wire.decode(data, body_limit=self._body_limit)
        if not isinstance(found, EncodedUpdate | Failure | FromClient) or found.key not in flight.keys:
            raise WireError(f"a {type(found).__name__} that answers nothing that was asked")
        return found

    def _fail(self, keys: Iterable[Key], code: str, error: tuple[str, str]) -> None:
        for key in keys:
            self._arrive(key, Failure(key, code, error[1] or error[0], error[0] if error[1] else ""))

    def _arrive(self, key: Key, reply: Reply) -> None:
        if self._open.pop(key, None) is not None:
            self._arrived.append(Arrival(key, self.now(), reply))

    def _standing(self, key: Key) -> Standing:
        node = self._nodes.of(key.client)
        if node is None:
            return Standing(False, "its node is silent")
        if key in node.queue:
            return Standing(True, "its node is busy with an earlier message")
        return Standing(True, "its node has the request")
