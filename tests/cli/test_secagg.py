"""`fedkit secagg plan`: what it shows, what it refuses, what it advises."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

Command = Callable[..., Any]


def planned(fedkit: Command, *words: str) -> dict[str, Any]:
    result = fedkit("secagg", "plan", *words, "--format", "json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_thousand_clients(fedkit: Command) -> None:
    found = planned(fedkit, "--clients", "1000", "--dropout", "0.1", "--corrupt", "0.05")
    assert (found["graph"], found["neighbours"], found["threshold"]) == ("random", 78, 52)
    assert 0 < found["p_privacy"] < 2**-41
    assert 0 < found["p_correctness"] < 2**-20
    assert found["p_disconnected"] < 2**-41
    assert 0 < found["aborted"] < 1e-5
    assert found["aborted_is_exact"] is False
    assert found["vector_bytes"] == 4_000_000
    assert found["up_bytes"] == pytest.approx(4_000_000 * 1.002, rel=0.001)
    assert found["server_seconds"] < 5
    assert found["notes"] == []


def test_options_reach_the_choice(fedkit: Command) -> None:
    base = planned(fedkit, "--clients", "1000")
    assert planned(fedkit, "--clients", "1000", "--sigma", "80")["neighbours"] == 96
    assert planned(fedkit, "--clients", "1000", "--corrupt", "0.1")["neighbours"] == 100
    assert planned(fedkit, "--clients", "1000", "--dropout", "0.3")["neighbours"] == 314
    assert planned(fedkit, "--clients", "1000", "--mode", "honest_server")["threshold"] < base["threshold"]
    assert planned(fedkit, "--clients", "1000", "--size", "100000")["vector_bytes"] == 400_000
    assert planned(fedkit, "--clients", "1000", "--width", "8")["vector_bytes"] == 1_000_000


def test_the_text_says_the_same_and_what_it_means(fedkit: Command) -> None:
    text = fedkit("secagg", "plan", "--clients", "1000").stdout
    for part in (
        "39 random Hamiltonian cycles",
        "52 of 79",
        "26 neighbours of each client may be lost",
        "2^-43",
    ):
        assert part in text
    text = fedkit("secagg", "plan", "--clients", "20", "--dropout", "0.2").stdout
    for part in ("the complete graph", "14 of 20", "6 of 20 clients may be lost", "8.7%"):
        assert part in text


def test_frequent_aborts_come_with_a_number_of_clients_that_helps(fedkit: Command) -> None:
    found = planned(fedkit, "--clients", "20", "--dropout", "0.2")
    [note] = found["notes"]
    assert note.startswith("8.7% of rounds would abort: over-select. With ")
    enough = note.split("With ")[1].split()[0]
    assert planned(fedkit, "--clients", enough, "--dropout", "0.2")["aborted"] <= 0.01


def test_frequent_aborts_that_no_number_of_clients_mends(fedkit: Command) -> None:
    notes = planned(fedkit, "--clients", "128", "--dropout", "0.4")["notes"]
    assert any("lost less often" in note for note in notes)


def test_what_is_not_promised_is_said(fedkit: Command) -> None:
    notes = planned(fedkit, "--clients", "100", "--mode", "honest_server")["notes"]
    assert any("tells clients different things" in note for note in notes)
    notes = planned(fedkit, "--clients", "3", "--dropout", "0")["notes"]
    assert any("c = 0" in note for note in notes)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--clients", "2"), "2 clients: a secure sum takes at least 3"),
        (("--clients", "100", "--dropout", "0.5"), "no parameters for 100 clients"),
        (("--clients", "100", "--dropout", "10"), "dropout is a share of all clients"),
        (("--clients", "100", "--width", "65"), "a width is from 1 to 64 bits"),
        (("--clients", "100", "--size", "0"), "at least one number"),
        (("--clients", "100", "--sigma", "0"), "sigma is from 1"),
        (("--clients", "100", "--mode", "trusted"), "lying_server"),
        (("--clients", "many"), "--clients"),
        ((), "--clients"),
    ],
)
def test_bad_input_is_told_and_exits_with_2(fedkit: Command, words: tuple[str, ...], reason: str) -> None:
    result = fedkit("secagg", "plan", *words)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert result.stdout == ""
