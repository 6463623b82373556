"""Counting is bounded: no name that a stranger makes up becomes a series."""

from __future__ import annotations

from fedkit.aggregator.meters import Meters


def samples(meters: Meters) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for family in meters.registry.collect():
        for sample in family.samples:
            if sample.name == "fedkit_requests_total":
                labels = sample.labels
                found[labels["route"], labels["method"], labels["status"]] = sample.value
    return found


def test_requests_are_counted_by_resource() -> None:
    meters = Meters()
    for path in ("/v1/uploads", "/v1/uploads/0123", "/v1/uploads/%00"):
        meters.request("POST", path, 200, 0.1)
    assert samples(meters) == {("uploads", "POST", "200"): 3.0}


def test_what_strangers_make_up_is_other() -> None:
    meters = Meters()
    for number in range(100):
        meters.request(f"M{number}", f"/v1/{number}", 404, 0.1)
        meters.request("GET", f"/{number}", 404, 0.1)
    assert set(samples(meters)) == {("other", "other", "404"), ("other", "GET", "404")}


def test_a_link_is_what_bodies_took_lately() -> None:
    meters = Meters()
    meters.came("alice", 100, 5.0)
    assert meters.uplink("alice") is None, "a short body says nothing"
    meters.came("alice", 1_000_000, 1.0)
    assert meters.uplink("alice") == 1e6
    for _ in range(30):
        meters.came("alice", 1_000_000, 10.0)
    assert abs((meters.uplink("alice") or 0) - 1e5) < 1e3
    assert meters.uplink("bob") is None
