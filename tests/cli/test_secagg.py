"""`fedkit secagg plan`: what it shows, what it refuses, what it advises."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedkit.secagg.evidence import Evidence, Said
from fedkit.secagg.frames import statement
from fedkit.secagg.identity import SigningKey, Trust
from fedkit.secagg.rosterfile import write_trust

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


def test_no_smaller_sum_is_proposed_than_helps(fedkit: Command) -> None:
    """In a sparse graph it is neighbours that are missing at last, however few may be in the sum."""
    words = ("--clients", "129", "--dropout", "0.3")
    [note] = planned(fedkit, *words)["notes"]
    least = int(note.split("--n-min ")[1].split()[0])
    at, below, above = (planned(fedkit, *words, "--n-min", str(n))["aborted"] for n in (least, 3, least + 1))
    assert 70 < least < 90
    assert 0.2 < below <= at <= 1.01 * below < above


def test_long_times_are_whole_seconds(fedkit: Command) -> None:
    text = fedkit("secagg", "plan", "--clients", "1000", "--size", "100000000", "--dropout", "0.2").stdout
    assert re.search(r"server CPU +[0-9]{3} s ", text)


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


# k and t by hand


def test_by_hand_the_same_table(fedkit: Command) -> None:
    """What would be chosen, given by hand, is the same plan."""
    for words in (
        ["--clients", "20"],
        ["--clients", "1000", "--sigma", "40"],
        ["--clients", "5", "--n-min", "4"],
    ):
        chosen = planned(fedkit, *words)
        others = ("smallest_sum", "helpers", "hidden_among", "notes")  # of fewer clients t stays what it is
        k, t = chosen["neighbours"], chosen["threshold"]
        found = planned(fedkit, *words, "--neighbours", str(k), "--threshold", str(t))
        alike = {name: found[name] for name in chosen if name not in others}
        assert alike == {name: chosen[name] for name in alike}
    found = planned(fedkit, "--clients", "100", "--neighbours", "28", "--threshold", "18", "--n-min", "82")
    assert (found["graph"], found["colluding"], found["notes"]) == ("random", 6, [])
    assert (found["smallest_sum"], found["helpers"]) == (82, 4)  # of 82, five in a hundred


def test_by_hand_a_higher_threshold_stands_more_helpers(fedkit: Command) -> None:
    """Of ten, seven are chosen; with eight, one more may help, and one fewer may be lost."""
    found = [
        planned(fedkit, "--clients", "10", "--n-min", "3", "--neighbours", "9", "--threshold", str(t))
        for t in (7, 8, 9)
    ]
    assert [one["colluding"] for one in found] == [3, 5, 7]
    assert [one["smallest_sum"] for one in found] == [7, 8, 9]  # t must live, whatever n_min is
    assert [one["helpers"] for one in found] == [3, 5, 7]
    assert [one["aborted"] for one in found] == sorted(one["aborted"] for one in found)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--neighbours", "4"], "--neighbours and --threshold go together"),
        (["--threshold", "4"], "--neighbours and --threshold go together"),
        (
            ["--neighbours", "7", "--threshold", "5"],
            "neighbours=7: with 20 clients, 19, or even and up to 14",
        ),
        (
            ["--neighbours", "19", "--threshold", "9"],
            "threshold=9: lying_server with 19 neighbours takes 11 to 20",
        ),
        (["--neighbours", "6", "--threshold", "4", "--corrupt", "0.3"], "secrecy fails with"),
    ],
)
def test_by_hand_what_no_session_takes_is_refused(fedkit: Command, words: list[str], says: str) -> None:
    result = fedkit("secagg", "plan", "--clients", "20", *words)
    assert result.exit_code == 2
    assert says in result.stderr


def test_by_hand_rounds_that_are_lost_too_often_are_told(fedkit: Command) -> None:
    [note] = planned(fedkit, "--clients", "1000", "--neighbours", "96", "--threshold", "80")["notes"]
    assert note.startswith(
        "A run refuses these k and t: with a share of 0.1 lost somebody keeps fewer than 80"
    )


# Evidence


def lied(key: SigningKey, claims: bytes) -> Said:
    text = statement("mask", b"s" * 32, claims)
    return Said(text, key.sign(text))


def test_evidence_convinces_who_has_the_roster(fedkit: Command, tmp_path: Path) -> None:
    key, server = SigningKey(b"k" * 32), SigningKey(b"s" * 32)
    file, roster, other = (tmp_path / name for name in ("evidence-1.json", "roster.toml", "other.toml"))
    made = Evidence("carol", key.public, b"", lied(key, b"one"), lied(key, b"two"))
    file.write_text(json.dumps(made.to_json()))
    write_trust(roster, Trust.of_roster({"carol": key.public}, server.public))
    write_trust(other, Trust.of_roster({"carol": server.public}, key.public))
    result = fedkit("secagg", "evidence", str(file), "--roster", str(roster))
    assert (result.exit_code, result.stdout) == (
        0,
        "carol signed two different mask statements in one session.\n",
    )
    result = fedkit("secagg", "evidence", str(file), "--roster", str(other))
    assert result.exit_code == 1
    assert "proves nothing about 'carol'" in result.stderr


def test_a_file_that_is_no_evidence(fedkit: Command, tmp_path: Path) -> None:
    roster = tmp_path / "roster.toml"
    write_trust(
        roster, Trust.of_roster({"carol": SigningKey(b"k" * 32).public}, SigningKey(b"s" * 32).public)
    )
    for text, says in (
        ("{}", "is no evidence"),
        ("x", "is no evidence"),
        (" " * 70_000, "more than 65536 bytes"),
    ):
        (tmp_path / "e.json").write_text(text)
        result = fedkit("secagg", "evidence", str(tmp_path / "e.json"), "--roster", str(roster))
        assert result.exit_code == 2
        assert says in result.stderr
    assert "No such file" in fedkit("secagg", "evidence", "nowhere.json", "--roster", str(roster)).stderr
