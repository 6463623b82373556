"""Tasks on their way: leased, acknowledged, settled, the verdict told."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from fedkit import wire
from fedkit.aggregator.blobs import Blobs
from fedkit.aggregator.leases import MOST, read, told
from fedkit.federation import Verdict
from fedkit.messages import Key, Task

PATIENCE = 600.0
"""Seconds that anything may take, on a machine that is busy."""


def test_a_key_is_read_as_it_was_told() -> None:
    key = Key("job", 3, "evaluate", "", 0, "wärd \n7")
    assert read(told(key)) == key


def test_a_task_is_leased_once_and_holds_no_model(site: Any) -> None:
    site.publish()
    task = site.task("alice")
    site.federation.send([task, site.task("bob")])
    (lease,) = site.leases.news("alice")[1]
    path = Blobs(site.directory / "blobs").find(lease.frame)
    assert path is not None
    frame = path.read_bytes()
    assert len(frame) == lease.bytes
    read_back = wire.decode(frame)
    assert read_back.key == task.key
    assert isinstance(read_back, Task)
    assert not read_back.model
    assert lease.version == 1
    assert site.leases.news("alice")[1] == []


def test_a_lease_that_was_not_acknowledged_runs_out(site: Any) -> None:
    site.federation.send([site.task("alice")])
    (lease,) = site.leases.news("alice")[1]
    assert site.leases.news("alice", 1000.0)[1] == []
    assert site.leases.news("alice", 0.0)[1] == [lease]


def test_an_acknowledged_task_is_not_offered_again_also_after_a_restart(site: Any) -> None:
    site.federation.send([site.task("alice")])
    (lease,) = site.leases.news("alice")[1]
    site.leases.acknowledge("bob", [lease.id], [])
    assert site.leases.news("alice", 0.0)[1] == [lease], "bob cannot acknowledge it"
    site.leases.acknowledge("alice", [lease.id, 99], [])
    assert site.leases.news("alice", 0.0)[1] == []
    assert site.again().leases.news("alice", 0.0)[1] == []


def test_what_was_sent_twice_is_one_task(site: Any) -> None:
    task = site.task("alice")
    site.federation.send([task])
    (lease,) = site.leases.news("alice")[1]
    site.federation.send([task])
    site.again().federation.send([task])
    assert site.leases.news("alice", 0.0)[1] == [lease]


def test_a_task_is_not_offered_before_its_model(site: Any) -> None:
    site.federation.send([site.task("alice", version=2)])
    assert site.leases.news("alice")[1] == []
    site.publish(2)
    assert len(site.leases.news("alice")[1]) == 1


def test_an_expired_task_is_not_offered(site: Any) -> None:
    site.federation.send([replace(site.task("alice"), expires=site.journal.now() - 1)])
    assert site.leases.news("alice")[1] == []


@pytest.mark.parametrize("restart", [False, True])
def test_a_verdict_is_told_until_it_is_acknowledged(site: Any, restart: bool) -> None:
    task = site.task("alice")
    site.federation.send([task])
    site.leases.news("alice")[1]
    site.federation.settle({task.key: Verdict.late})
    site.federation.settle({task.key: Verdict.counted})  # the first one stands
    if restart:
        site.again()
    assert site.leases.news("alice")[0] == [(task.key, Verdict.late)]
    assert site.leases.news("alice")[0] == [(task.key, Verdict.late)]
    assert site.leases.news("bob")[0] == []
    site.leases.acknowledge("bob", [], [task.key])
    assert site.federation.untold() == 1
    site.leases.acknowledge("alice", [], [task.key])
    assert site.leases.news("alice")[0] == []
    assert site.federation.untold() == 0


def test_a_task_that_was_settled_is_not_offered(site: Any) -> None:
    task = site.task("alice")
    site.federation.send([task])
    site.leases.news("alice")[1]
    site.federation.settle({task.key: Verdict.lost})
    assert site.leases.news("alice", 0.0)[1] == []


def test_nobody_is_told_of_a_task_that_nobody_was_offered(site: Any) -> None:
    task = site.task("alice")
    site.federation.send([task])
    site.federation.settle({task.key: Verdict.lost})
    assert site.leases.news("alice")[0] == []
    assert site.leases.news("alice")[1] == []


def test_an_open_task_cannot_be_acknowledged_as_settled(site: Any) -> None:
    task = site.task("alice")
    site.federation.send([task])
    (lease,) = site.leases.news("alice")[1]
    site.leases.acknowledge("alice", [], [task.key])
    assert site.leases.news("alice", 0.0)[1] == [lease]


def test_how_a_task_stands(site: Any) -> None:
    tasks = {name: site.task(name) for name in ("alice", "bob", "ward 7")}
    site.federation.send(tasks.values())
    site.leases.news("alice")[1]
    (lease,) = site.leases.news("bob")[1]
    site.journal.admit("bob", "00", 0, 0.0)
    site.leases.acknowledge("bob", [lease.id], [])
    stands = site.federation.outstanding()
    alice, bob, ward = (stands[tasks[name].key] for name in tasks)
    assert (alice.alive, bob.alive, ward.alive) == (False, True, False)
    assert bob.note.startswith("it has its task, last heard of")
    assert alice.note == "it was offered its task, never heard of"
    assert ward.note == "it never asked for its task, never heard of"
    site.deliver(tasks["alice"])
    stands = site.federation.outstanding()
    assert stands[tasks["alice"].key].alive, "its result is here, though not received yet"
    list(site.federation.receive(site.federation.now()))
    assert set(site.federation.outstanding()) == {tasks["bob"].key, tasks["ward 7"].key}


def test_no_task_comes_before_the_verdicts_that_came_before_it(site: Any) -> None:
    """A client trains from what it remembers, and a verdict decides what that is."""
    rounds = 150

    def loop() -> None:
        for number in range(rounds):
            task = site.task("alice", number)
            site.federation.send([task])
            if not taken[number].wait(PATIENCE):
                return
            site.federation.settle({task.key: Verdict.counted})

    taken = [threading.Event() for _ in range(rounds)]
    running = threading.Thread(target=loop, daemon=True)
    running.start()
    known = set[int]()
    for number in range(rounds):
        leases: Any = []
        while not leases:
            assert running.is_alive(), "the tasks do not come"
            settled, leases = site.leases.news("alice")
            known |= {key.round for key, _ in settled}
            site.leases.acknowledge("alice", [], [key for key, _ in settled])
            time.sleep(0.00001)  # the lock is not fair: without a pause this thread may keep it
        assert known == set(range(number))
        taken[number].set()
    running.join(PATIENCE)
    assert not running.is_alive()


def test_who_has_many_verdicts_to_hear_is_offered_nothing_before(site: Any) -> None:
    tasks = [site.task("alice", number) for number in range(MOST + 1)]
    site.federation.send(tasks)
    site.leases.news("alice")
    site.federation.settle({task.key: Verdict.late for task in tasks[:-1]})
    settled, leases = site.leases.news("alice", 0.0)
    assert (len(settled), leases) == (MOST, [])
    site.leases.acknowledge("alice", [], [settled[0][0]])
    settled, leases = site.leases.news("alice", 0.0)
    assert (len(settled), len(leases)) == (MOST - 1, 1)


def test_what_a_device_may_have_lost_is_offered_once_more_but_not_what_it_has_answered(site: Any) -> None:
    tasks = [site.task("alice"), site.task("bob")]
    site.federation.send(tasks)
    (lease,), (other,) = site.leases.news("alice")[1], site.leases.news("bob")[1]
    site.leases.acknowledge("alice", [lease.id], [])
    site.leases.acknowledge("bob", [other.id], [])
    site.leases.reopen("alice")
    assert site.leases.news("bob", 0.0)[1] == [], "that is another device's"
    assert site.leases.news("alice")[1] == [lease]
    site.leases.acknowledge("alice", [lease.id], [])
    site.deliver(tasks[0])
    site.leases.reopen("alice")
    assert site.leases.news("alice")[1] == []
    site.federation.settle({tasks[0].key: Verdict.counted})
    site.leases.reopen("alice")
    assert [key for key, _ in site.leases.news("alice")[0]] == [tasks[0].key], (
        "its verdict is told all the same"
    )
