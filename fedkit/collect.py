"""One round's replies: ends in a sum, with a fate for every invited client."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from fedkit.aggregate import WeightedSum
from fedkit.codecs import CodecContext
from fedkit.codecs.adaptive import LADDER, Adaptive
from fedkit.codecs.none import Plain
from fedkit.dressing import undress
from fedkit.errors import LayoutError, UpdateRefused, WireError, shown
from fedkit.federation import Arrival, Federation, Partial, Plan, Standing, Verdict
from fedkit.history import Carried, Fate, Outcome, SecureRecord
from fedkit.job import Job
from fedkit.messages import ClientId, EncodedUpdate, Failure, Key, Task, Update
from fedkit.stepping import combine, weigh

log = logging.getLogger("fedkit")

Notify = Callable[[ClientId, Fate, int, Failure | None], None]
"""Called as (client, fate, counted so far, failure) when a fate is known."""


@dataclass
class Collected:
    """What a round brought. verdicts: keys to close; `open` keys may still be carried later.

    secagg: how it was summed in secret; aborted: why there is no such sum. rungs: how many counted
    updates came by each codec of a ladder.
    """

    total: WeightedSum
    fates: dict[ClientId, Fate] = field(default_factory=dict)
    carried: dict[ClientId, Carried] = field(default_factory=dict)
    verdicts: dict[Key, Verdict] = field(default_factory=dict)
    open: list[Key] = field(default_factory=list)
    counted: int = 0
    first_failure: Failure | None = None
    secagg: SecureRecord | None = None
    aborted: str = ""
    rungs: Counter[str] = field(default_factory=Counter)


class Collector:
    """Sends one round's tasks and judges what comes back, one arrival at a time.

    Replies are added to the sum as they come: memory is O(model), or O(cohort) where the strategy
    asks for each update.
    """

    def __init__(
        self,
        federation: Federation,
        job: Job,
        plan: Plan,
        context_of: Callable[[Key], CodecContext],
        zero: WeightedSum,
        carry_rounds: int,
        notify: Notify,
    ) -> None:
        self._federation = federation
        self._job = job
        self._plan = plan
        self._context_of = context_of
        self._carry_rounds = carry_rounds
        self._notify = notify
        self._tasks: dict[Key, Task] = {}
        self._told: set[str] = set()
        self._kept: dict[Key, tuple[ClientId, Update]] = {}
        self.result = Collected(zero)

    def run(self, tasks: Mapping[Key, Task]) -> Collected:
        """Send the tasks, receive until enough are counted or the deadline has come."""
        self._tasks = dict(tasks)
        self._federation.send(self._tasks.values())
        want = self._plan.want
        for arrival in self._federation.receive(self._plan.deadline, want or None):
            self._arrived(arrival)
            del arrival  # an update is large: it is gone before the next one is read
            if self._tasks and self.result.counted >= want:
                break
        self._close()
        if self._kept:
            updates = [self._kept[key] for key in sorted(self._kept, key=lambda k: (k.client, k.round))]
            self.result.total = combine(self._job.strategy, updates, self.result.total)
        return self.result

    def _arrived(self, arrival: Arrival) -> None:
        key = arrival.key
        if key in self.result.verdicts:
            return  # a second copy
        if key in self._tasks:
            self._judge(key, arrival)
        elif key in self._plan.carried:
            self._judge_carried(key, arrival)
        else:
            self.result.verdicts[key] = Verdict.late
            log.info("client %s: reply to round %d came too late", key.client, key.round + 1)

    def _judge(self, key: Key, arrival: Arrival) -> None:
        reply = arrival.reply
        if isinstance(reply, Failure):
            self._failed(key, reply)
        elif isinstance(reply, Partial):
            self._partial(reply)
        elif not isinstance(reply, EncodedUpdate):
            why = "a message of a secure session, in a round without one"
            self._seal(key, Outcome.refused, why, Verdict.refused)
        else:
            why = self._add(key, reply, self._tasks[key].work, 1.0)
            if why:
                log.warning("round %d: %s", key.round + 1, why)
                self._seal(key, Outcome.refused, why, Verdict.refused)
            else:
                self.result.counted += 1
                self._seal(key, Outcome.counted, "", Verdict.counted)

    def _judge_carried(self, key: Key, arrival: Arrival) -> None:
        age = self._plan.round - key.round
        reply = arrival.reply
        if isinstance(reply, EncodedUpdate):
            factor = weigh(self._job.strategy, age)
            why = self._add(key, reply, 1.0, factor)
            outcome = Outcome.refused if why else Outcome.counted
            why = why or f"{age} rounds late, weight x {factor:.3g}"
        else:
            outcome, why = Outcome.failed, told(reply) if isinstance(reply, Failure) else "a partial sum"
        self.result.carried[key.client] = Carried(key.round, outcome, why)
        self.result.verdicts[key] = Verdict.counted if outcome is Outcome.counted else Verdict.refused

    def _add(self, key: Key, reply: EncodedUpdate, asked: float, factor: float) -> str:
        """Add one update; the reason if it is refused, in which case the sum is unchanged."""
        strategy = self._job.strategy
        try:
            if reply.work < asked and not strategy.accepts_partial_work:
                reason = f"is {reply.work:.3g}: {type(strategy).__name__} does not accept partial work"
                raise UpdateRefused(key.client, "work", reason)
            if key.kind == "evaluate":
                update = Update({}, reply.weight, reply.metrics)
            else:
                update = undress(self._job, reply, self._context_of(key))
            if factor != 1.0:
                update = replace(update, weight=update.weight * factor)
            if strategy.needs_each_update and key.kind == "train":
                self._job.zero().add(key.client, update)  # the same checks, before it is kept
                self._kept[key] = (key.client, update)
            else:
                self.result.total.add(key.client, update)
            if key.kind == "train":
                self._note_rung(reply)
        except UpdateRefused as error:
            codec = self._job.codec_up
            if isinstance(codec, Plain) or error.subject not in self._job.layout.names:
                return str(error)
            return f"{error}; the client's own fits: codec {codec.id!r} overshoots, raise aggregate.max_delta"
        except (WireError, LayoutError) as error:
            return f"update of client {key.client!r} refused: {error}"
        return ""

    def _note_rung(self, reply: EncodedUpdate) -> None:
        codec = self._job.codec_up
        if isinstance(codec, Adaptive):
            self.result.rungs[LADDER[codec.rung(reply.payload, self._job.layout)]] += 1

    def _partial(self, partial: Partial) -> None:
        """Add a sum that a worker has merged; all its members count or none does."""
        members = set(partial.members)
        if self._job.strategy.needs_each_update:
            why = "a partial sum, but the strategy needs each update"
        elif not members <= self._tasks.keys() - self.result.verdicts.keys():
            why = "a partial sum with members that were not asked or are judged already"
        elif not partial.total.clients == len(members) == len(partial.members):
            why = f"a partial sum of {partial.total.clients} updates that names {len(members)} clients"
        else:
            try:
                self.result.total.merge(partial.total)
                why = ""
            except (UpdateRefused, LayoutError) as error:
                why = str(error)
        self.result.counted += 0 if why else len(partial.members)
        for key in partial.members:
            if key in self._tasks and key not in self.result.verdicts:
                verdict, outcome = (
                    (Verdict.refused, Outcome.refused) if why else (Verdict.counted, Outcome.counted)
                )
                self._seal(key, outcome, why, verdict)

    def _failed(self, key: Key, failure: Failure) -> None:
        why = told(failure)
        # the same traceback from every client of a round helps nobody
        detail = f"\n{failure.detail}" if failure.detail and why not in self._told else ""
        log.warning("round %d: client %s failed: %s%s", key.round + 1, key.client, why, detail)
        self._told.add(why)
        self.result.first_failure = self.result.first_failure or failure
        self._seal(key, Outcome.failed, why, Verdict.refused, failure)

    def _close(self) -> None:
        """A fate for everyone who has none yet."""
        rest = [key for key in self._tasks if key not in self.result.verdicts]
        full = self.result.counted >= self._plan.want > 0
        standing = self._federation.outstanding() if rest or self._plan.carried else {}
        for key in rest:
            stands = standing.get(key)
            if full and (stands is None or stands.alive):
                self._seal(key, Outcome.unwanted, "enough others were counted", Verdict.unwanted)
            else:
                self._missing(key, stands)
        for key, expires in self._plan.carried.items():
            if key in self.result.verdicts:
                continue
            if expires <= self._federation.now() or self._plan.round - key.round >= self._carry_rounds:
                self.result.verdicts[key] = Verdict.lost
                self.result.carried[key.client] = Carried(key.round, Outcome.lost, "its task has expired")
            else:
                self.result.open.append(key)

    def _missing(self, key: Key, standing: Standing | None) -> None:
        note = f": {standing.note}" if standing is not None and standing.note else ""
        if standing is not None and standing.alive:
            if self._carry_rounds:
                self.result.open.append(key)
            else:
                self.result.verdicts[key] = Verdict.late
            self._fate(key, Outcome.late, f"no reply before the round closed{note}")
        else:
            self._seal(key, Outcome.lost, f"no reply before the round closed{note}", Verdict.lost)

    def _seal(
        self, key: Key, outcome: Outcome, why: str, verdict: Verdict, failure: Failure | None = None
    ) -> None:
        self.result.verdicts[key] = verdict
        self._fate(key, outcome, why, failure)

    def _fate(self, key: Key, outcome: Outcome, why: str, failure: Failure | None = None) -> None:
        fate = Fate(outcome, why)
        self.result.fates[key.client] = fate
        self._notify(key.client, fate, self.result.counted, failure)


def told(failure: Failure) -> str:
    """One line about a failure: code, class, subject and, in simulation, the exception's text."""
    parts = [failure.code]
    if failure.detail:
        last = failure.detail.strip().splitlines()[-1]
        parts.append(last.removeprefix(f"fedkit.errors.ClientFailed: {failure.code}: "))
    else:
        parts += [text for text in (failure.exception, failure.subject) if text]
        parts = [_plain(text) for text in parts]  # of a device, which may send anything
    return ": ".join(dict.fromkeys(parts))


def _plain(text: str) -> str:
    """For a line of a log or a terminal, and short."""
    return text if text.isprintable() and len(text) <= 80 else shown(text)
