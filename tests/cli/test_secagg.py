"""`fedkit secagg plan`: what it shows, what it refuses, what it advises."""

from __future__ import annotations

import json
import re
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
    assert (found["graph"], found["neighbours"], found["threshold"]) == ("random", 96, 67)
    assert 0 < found["p_privacy"] < 2**-81
    assert 0 < found["p_correctness"] < 2**-20
    assert found["p_disconnected"] < 2**-81
    assert 0.4 < found["aborted"] < 0.5
    assert found["aborted_is_exact"] is False
    assert (found["smallest"], found["smallest_sum"]) == (900, 900)
    assert found["vector_bytes"] == 4_000_000
    assert found["up_bytes"] == pytest.approx(4_000_000 * 1.002, rel=0.001)
    assert found["server_seconds"] < 5
    [note] = found["notes"]
    assert note.startswith("47.3% of rounds would abort, as 900 must stay. With --n-min ")
    enough = planned(fedkit, "--clients", "1000", "--n-min", note.split("--n-min ")[1].split()[0])
    assert (enough["aborted"] <= 0.01, enough["notes"]) == (True, [])


def test_options_reach_the_choice(fedkit: Command) -> None:
    base = planned(fedkit, "--clients", "1000")
    assert planned(fedkit, "--clients", "1000", "--sigma", "40")["neighbours"] == 78
    assert planned(fedkit, "--clients", "1000", "--corrupt", "0.1")["neighbours"] == 124
    assert planned(fedkit, "--clients", "1000", "--dropout", "0.3")["neighbours"] == 336
    assert planned(fedkit, "--clients", "1000", "--mode", "honest_server")["threshold"] < base["threshold"]
    assert planned(fedkit, "--clients", "1000", "--size", "100000")["vector_bytes"] == 400_000
    assert planned(fedkit, "--clients", "1000", "--width", "8")["vector_bytes"] == 1_000_000


def test_the_text_says_the_same_and_what_it_means(fedkit: Command) -> None:
    text = fedkit("secagg", "plan", "--clients", "1000").stdout
    for part in (
        "48 random Hamiltonian cycles",
        "67 of 97",
        "29 neighbours of each client may be lost",
        "2^-88",
    ):
        assert part in text
    text = fedkit("secagg", "plan", "--clients", "20", "--dropout", "0.2", "--n-min", "14").stdout
    for part in ("the complete graph", "14 of 20", "6 of 20 clients may be lost", "8.7%", "up to 7 corrupt"):
        assert part in text


def test_sums_are_as_large_as_in_a_run_if_nothing_is_said(fedkit: Command) -> None:
    """A server may leave out whom it likes down to that, and fewer shares rebuild a secret then."""
    for clients, said in (
        (3, (3, 1, 2)),
        (4, (4, 2, 2)),
        (10, (9, 3, 6)),
        (20, (18, 6, 12)),
        (100, (90, 30, 60)),
    ):
        found = planned(fedkit, "--clients", str(clients))
        assert tuple(found[key] for key in ("smallest_sum", "helpers", "hidden_among")) == said
    found = planned(fedkit, "--clients", "20", "--n-min", "3")
    assert tuple(found[key] for key in ("smallest_sum", "helpers", "hidden_among")) == (3, 1, 2)
    text = fedkit("secagg", "plan", "--clients", "20").stdout
    assert "of these, with 6 helpers of the server; with more, nothing is promised" in text


def test_frequent_aborts_come_with_what_helps(fedkit: Command) -> None:
    found = planned(fedkit, "--clients", "20", "--dropout", "0.2")
    [note] = found["notes"]
    assert note.startswith("37.0% of rounds would abort, as 16 must stay. With --n-min 14 it would be 8.7%")
    enough, least = re.findall(r"With (\d+) invited and --n-min (\d+)", note)[0]
    words = ("--clients", enough, "--dropout", "0.2", "--n-min", least)
    assert planned(fedkit, *words)["aborted"] <= 0.01


def test_losses_in_the_mean_may_be_fewer_than_those_that_are_stood(fedkit: Command) -> None:
    found = planned(fedkit, "--clients", "20", "--dropout", "0.4", "--loss", "0.2")
    assert (found["loss"], found["dropout"], found["smallest_sum"]) == (0.2, 0.4, 12)
    assert found["aborted"] == pytest.approx(0.00998, abs=1e-5)


def test_frequent_aborts_that_nothing_mends(fedkit: Command) -> None:
    [note] = planned(fedkit, "--clients", "128", "--dropout", "0.4")["notes"]
    assert re.fullmatch(r".* of rounds would abort, as \d+ must stay\.( With --n-min .* sums\.)?", note)


def test_what_is_not_promised_is_said(fedkit: Command) -> None:
    notes = planned(fedkit, "--clients", "100", "--mode", "honest_server")["notes"]
    assert any("tells clients different things" in note for note in notes)
    notes = planned(fedkit, "--clients", "3", "--dropout", "0")["notes"]
    assert notes == []  # nobody can be declared lost: a helper and the server know a sum of two
    notes = planned(fedkit, "--clients", "10", "--corrupt", "0", "--dropout", "0.4", "--n-min", "3")["notes"]
    assert any("A single client that helps the server" in note for note in notes)
    notes = planned(fedkit, "--clients", "10", "--corrupt", "0.2", "--n-min", "3")["notes"]
    assert any("fewer than two honest ones may be in a sum of 3: set --n-min to 4." in note for note in notes)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--clients", "2"), "2 clients: a secure sum takes at least 3"),
        (("--clients", "100", "--dropout", "0.5"), "no parameters for 100 clients"),
        (("--clients", "4", "--dropout", "0.6"), "3 clients must stay and 2 are sure to"),
        (("--clients", "100", "--dropout", "10"), "dropout is a share of all clients"),
        (("--clients", "100", "--width", "65"), "a width is from 1 to 64 bits"),
        (("--clients", "100", "--size", "0"), "at least one number"),
        (("--clients", "100", "--sigma", "129"), "sigma is from 1"),
        (("--clients", "100", "--loss", "1"), "loss is a share of all clients"),
        (("--clients", "100", "--n-min", "2"), "hides nobody"),
        (("--clients", "100", "--n-min", "101"), "at least 101"),
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
