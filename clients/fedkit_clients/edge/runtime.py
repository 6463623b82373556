"""The edge client: one persistent process that trains what it is asked, and loses nothing that is finished.

For ever: ask for verdicts and tasks, train, upload. Each step is safe on disk before the next one begins
(spool.py), so a process killed at any instant loses at most the training in progress.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from functools import partial

from fedkit.errors import ConfigError, WireError
from fedkit.federation import Verdict
from fedkit.messages import ClientId, Key
from fedkit.secureclient import task_key
from fedkit.trainer import Workload
from fedkit_clients.edge.answers import UNWANTED, Fruitless, OtherRun, Refused, Unfit, Unreachable
from fedkit_clients.edge.backoff import Backoff
from fedkit_clients.edge.declining import Declining
from fedkit_clients.edge.device import Device
from fedkit_clients.edge.fetching import fetching
from fedkit_clients.edge.joined import Joined, Misfit, Vouch, begin
from fedkit_clients.edge.offers import Offer
from fedkit_clients.edge.renewal import Renewal
from fedkit_clients.edge.root import Root
from fedkit_clients.edge.taking import hear, take, take_last
from fedkit_clients.edge.transport import Transport

log = logging.getLogger("fedkit.edge")
PATIENCE, LONGEST = 30, 120
"""Seconds that a poll waits for news: the first one, and the last of those that go well without any."""
HASTE = 0.5
"""Share of its wait before which no poll is over without news, and no two steps that bring nothing."""


class EdgeClient:
    """One client of one aggregator.

    root: its directory. device: what its owner has decided. vouch: who it is in secure sessions; None: it
    takes part in none. renewal: keeps its certificate good. sleep: how to wait, for tests.
    """

    def __init__(
        self,
        transport: Transport,
        client: ClientId,
        workload: Workload,
        root: Root,
        *,
        device: Device | None = None,
        vouch: Vouch | None = None,
        renewal: Renewal | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._device = device if device is not None else Device()
        self._transport, self._client, self._workload, self._sleep = transport, client, workload, sleep
        self._root = root
        self._vouch, self._renewal = vouch, renewal
        self._backoff, self._patience = Backoff(client), PATIENCE
        self._offers: dict[int, Offer] = {}
        self._safe, self._heeded = list[int](), list[Key]()  # of which the aggregator is to know
        self._joined: Joined | None = None
        self._declining: Declining | None = None
        self._fruit, self._barren = (
            False,
            0,
        )  # whether this step brought anything; steps in a row that did not

    def run(self) -> None:
        """Go on until the process is told to stop (KeyboardInterrupt).

        ConfigError: the first job is not for this client's workload, or needs what is not installed here;
        of a later one it waits for the end and declines its tasks: no aggregator ends a device that has done
        its work before.
        """
        while True:
            if self._device.rests(self._sleep, self._owes):
                continue
            gained = self._transport.gained
            try:
                self.step()
                self._backoff.reset()
            except (Unreachable, Refused, Unfit, OSError) as error:
                rubbish = isinstance(error, Fruitless)
                if (
                    self._transport.gained > gained and not rubbish
                ):  # a link that breaks often, and yet is one
                    self._backoff.reset()
                least = Fruitless.least if rubbish else 0.0
                seconds = self._backoff.wait(max(least, getattr(error, "after", 0.0)))
                level = logging.INFO if isinstance(error, Unreachable) else logging.ERROR
                log.log(level, "%s; again in %.1f s", error, seconds)
                self._sleep(seconds)

    def step(self) -> None:
        """Ask, train, upload, once. Without a link the training goes on, and then Unreachable is raised.

        After an OSError (a full disk) what is in RAM is forgotten: the next step begins from the disk.
        """
        began, patience, self._fruit = time.monotonic(), self._patience, False
        try:
            self._renew()
            if self._declining is not None:
                self._decline(self._declining)
            else:
                self._step(self._joined or self._join())
        except OtherRun as error:
            log.warning("%s", error)
            self._join_next()
        except OSError:
            self._joined = None
            raise
        self._demand_fruit(began + HASTE * patience)

    def _demand_fruit(self, until: float) -> None:
        """Fruitless after two steps in a row that were short and brought nothing: one alone is what repeats
        itself after an answer was lost, or the way into another run.
        """
        barren = not self._fruit and time.monotonic() < until
        self._barren = self._barren + 1 if barren else 0
        if self._barren > 1:
            raise Fruitless("the aggregator answers at once, and brings nothing that is new")

    def _renew(self) -> None:
        """Between sessions, see to the certificate; then begin from the disk, as who the client is now."""
        between = self._joined is None or not self._joined.talk.open
        if self._renewal is not None and between and self._renewal.look():
            self._joined, self._transport.key = None, self._renewal.held.key

    def _step(self, joined: Joined) -> None:
        fault: Unreachable | Refused | None = None
        try:
            self._ask(joined)
        except (Unreachable, Refused) as error:
            fault, self._patience = error, PATIENCE
        self._fruit = joined.train() is not None or self._fruit
        joined.answer()
        if not getattr(fault, "after", 0.0):
            self._upload(joined)
        if fault:
            raise fault

    @property
    def _owes(self) -> bool:
        """Whether something that was begun is to be delivered yet, or the disk was not asked."""
        joined = self._joined
        return joined is None or joined.talk.open or bool(joined.spool.finished())

    def close(self) -> None:
        """Let go of the spool and of the connections."""
        self._root.close()
        self._transport.close()

    def _join(self) -> Joined:
        """Begin with the job that was joined before this process began, or else with the aggregator's."""
        held = self._root.job()
        if held is not None:
            try:
                return self._begin(*held)
            except WireError as error:
                log.error("the job in the spool is damaged (%s): it is fetched again", error)
        return self._join_anew(*self._transport.job())

    def _join_next(self) -> None:
        """Leave a run for the one that came after it; Unfit if that is not for this device."""
        self._declining = None
        if self._joined is not None:
            self._transport.run = self._joined.run
        run, data = self._transport.job()
        try:
            self._join_anew(run, data)
        except ConfigError as error:
            why = Unfit(f"this device waits, the run that is served now is not for it: {error}")
            subject = error.subject if isinstance(error, Misfit) and self._device.policy.tells_why else ""
            self._declining = Declining(run, why, subject, self._client, self._root.directory)
            raise why from error

    def _decline(self, declining: Declining) -> None:
        """Decline what is asked, once a second at most. Nothing that is served can be done here."""
        patience, self._patience = self._patience, min(2 * self._patience, LONGEST)
        self._fruit = declining.step(self._transport, patience)
        if self._renewal is not None:
            self._renewal.due(declining.ca)
        if self._fruit:
            self._patience = PATIENCE
            self._sleep(Fruitless.least)

    def _join_anew(self, run: str, data: bytes) -> Joined:
        """Begin with the job that the aggregator has; Unreachable if that is the one we have."""
        held = self._joined
        if held and held.run == run:
            self._offers.clear()
            raise Unreachable(f"there is another run, the aggregator says, but its run is {run} still")
        try:
            return self._begin(run, data)
        except WireError as error:
            raise Unreachable(f"the job is not understood: {error}") from error

    def _begin(self, run: str, data: bytes) -> Joined:
        bring, root = partial(fetching, self._transport), self._root
        self._joined = begin(run, data, self._client, self._workload, root, self._vouch, self._device, bring)
        self._transport.run = run
        self._offers.clear()
        self._safe, self._heeded = [], []
        gc.collect()
        gc.freeze()  # what is loaded by now stays: it need not be looked through after each upload
        return self._joined

    def _ask(self, joined: Joined) -> None:
        """Hear what is new. Training is silent: the aggregator must have heard of the device before."""
        if self._heed(joined):
            self._heed(joined)

    def _heed(self, joined: Joined) -> bool:
        """Verdicts first: what is trained next starts from what they say is remembered. Returns whether a
        task came, and nothing was asked since.
        """
        began, busy = time.monotonic(), bool(self._offers) or joined.busy
        if self._safe:
            joined.secure()
        held = joined.models.told()
        again, patience = joined.spool.missing, 0 if busy else self._patience
        news = self._transport.news(patience, held, self._safe, self._heeded, again)
        self._safe, self._heeded, joined.spool.missing = [], [], False
        asked = self._transport.requests
        joined.ahead = news.now - time.monotonic()
        if not (busy or news.settled or news.offers or news.messages):
            if news.last:
                take_last(joined, self._client, *news.last)
            if time.monotonic() < began + HASTE * patience:
                raise Fruitless("the aggregator answers before there is news")
            self._patience = min(2 * self._patience, LONGEST)
        for key, verdict in news.settled:
            self._count(joined, key)
            joined.settle(key, verdict)
            self._heeded.append(key)
            log.info("round %d: %s", key.round + 1, verdict)
        room = max(0, joined.spool.room - len(self._offers))  # what is not taken is offered again
        self._offers |= {offer.id: offer for offer in news.offers[:room]}
        new = False
        for offer in list(self._offers.values()):
            new = take(joined, self._client, offer) or new
            self._safe.append(offer.id)
            del self._offers[offer.id]
        self._fruit = self._fruit or new
        if self._renewal is not None and not joined.talk.open and self._renewal.due(news.ca):
            return False  # no session begins before it is known whom to believe in it
        for blob in news.messages:
            if (heard := hear(joined, blob)) is not None:
                self._count(joined, heard)
        return new and self._transport.requests == asked

    def _count(self, joined: Joined, key: Key) -> None:
        """Something came of a task that is here; of others an aggregator could tell for ever."""
        self._fruit = self._fruit or joined.spool.name(task_key(key)) is not None

    def _upload(self, joined: Joined) -> None:
        """Everything that is finished, answers in secure sessions first: the others wait for them."""
        for key, frame in joined.talk.answers():
            try:
                self._transport.upload(key, frame)
            except Refused as error:
                if error.status not in UNWANTED:
                    raise
                log.info("round %d: the answer at %s is not wanted: %s", key.round + 1, key.stage, error)
            joined.talk.told(key)
            self._count(joined, key)
        for name, key in joined.spool.finished():
            try:
                if (reply := joined.spool.reply(name)) is None:
                    continue  # it is done again
                self._transport.upload(key, reply, not joined.spool.is_fresh(name))
                joined.spool.acknowledged(name)
                self._fruit = True
                for old in joined.spool.forsaken():
                    joined.settle(old, Verdict.lost)
                log.info("round %d: the aggregator has the reply", key.round + 1)
            except Refused as error:
                if error.status not in UNWANTED:
                    raise
                log.warning("the reply to round %d is not wanted: %s", key.round + 1, error)
                joined.settle(key, Verdict.unwanted)
