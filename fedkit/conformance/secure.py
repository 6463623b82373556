"""The law of federations with identities: a secure session over them gives the plain sum."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fedkit.aggregate import WeightedSum
from fedkit.codecs.none import Plain
from fedkit.collect import Collected
from fedkit.conformance.laws import demand
from fedkit.dressing import codec_context, undress
from fedkit.federation import Plan, server_trust
from fedkit.journal import Journal
from fedkit.messages import EncodedUpdate, Key
from fedkit.quarantine import Quarantine
from fedkit.secagg.parameters import Policy
from fedkit.secagg.settings import SecAgg
from fedkit.secure import SecureCollector

if TYPE_CHECKING:
    from fedkit.conformance.federation import Case

SECRET = SecAgg(Policy(), width=64)


def secure_sums(case: Case) -> None:
    """Every client can take part in a session, is told of once, and the sum is that of plain updates."""
    plain = replace(case.job, codec_up=Plain(), feedback=False, secagg=None)
    federation = replace(case, job=plain).opened()  # without identities it may refuse any other job
    clients = list(federation.clients())
    small = len(clients) < SECRET.policy.least
    if server_trust(federation) is None or small or plain.strategy.needs_each_update:
        return
    case = replace(case, job=replace(plain, secagg=SECRET, cohort=len(clients)))
    got = _session(case)
    demand(not got.aborted, f"a secure session came to nothing: {got.aborted}")
    demand(sorted(got.fates) == clients, "a client that was invited to a secure session has no fate")
    if case.repeatable:
        members = {client for client, fate in got.fates.items() if fate.outcome == "counted"}
        alike = _alike(got.total, _plain(replace(case, job=plain), members))
        demand(alike, "a secure session gives another sum than the plain updates of the same clients")


def _session(case: Case) -> Collected:
    """A secure round over all clients; afterwards nothing of it is outstanding."""
    federation, job = case.opened(), case.job
    tasks = {task.key: task for task in case.tasks(federation, 0)}
    start, names = federation.now(), tuple(sorted(key.client for key in tasks))
    seeds = {key.client: task.seed for key, task in tasks.items()}
    plan = Plan(0, start, start + case.patience, names, len(names), 1, seeds)
    ctx = codec_context(job, 0, 0)
    journal = Journal(job, 0, None)
    both = (federation, job, SECRET, plan, ctx, job.zero(), _silent)
    collector = SecureCollector(*both, journal.session, Quarantine(journal, {}))
    got = collector.run(tasks)
    federation.settle(got.verdicts)
    demand(not federation.outstanding(), "requests of a secure session outlive it")
    return got


def _silent(*_: object) -> None:
    """Nobody watches."""


def _plain(case: Case, members: set[str]) -> WeightedSum:
    """What the same clients send in the clear."""
    total = case.job.zero()
    for arrival in case.round(case.opened(), 0):
        key: Key = arrival.key
        if isinstance(arrival.reply, EncodedUpdate) and key.client in members:
            total.add(key.client, undress(case.job, arrival.reply, codec_context(case.job, 0, 0)))
    return total


def _alike(one: WeightedSum, other: WeightedSum) -> bool:
    same = (one.total == other.total).all() and one.weight_integer == other.weight_integer
    return bool(same) and one.clients == other.clients
