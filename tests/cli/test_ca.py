"""`fedkit ca`, `invite`, `join`, `revoke`: the words of an operator, with and without a network."""

from __future__ import annotations

import csv
import io
import shutil
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fedkit.aggregator.enrol import Enrolment
from fedkit.aggregator.journal import Journal
from fedkit.ca.certificates import ca_key
from fedkit.ca.invites import read_invite
from fedkit.ca.requests import make_request
from fedkit.cli.serve import ROSTER, _demand_apart, _trust
from fedkit.errors import ConfigError
from fedkit.keyfile import make_key
from fedkit.secagg.identity import SigningKey, Trust, fingerprint
from fedkit.secagg.rosterfile import write_trust

KEY = SigningKey(b"k" * 32)


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fedkit: Any) -> Path:
    """A folder with a CA and the key of an aggregator."""
    monkeypatch.chdir(tmp_path)
    assert fedkit("ca", "init").exit_code == 0
    make_key(tmp_path / "aggregator")
    return tmp_path


def invited(fedkit: Any, name: str, *words: str) -> Any:
    first = ("--address", "fed.example.org:8470", "--server", "aggregator")
    made = fedkit("invite", name, *first, *words)
    assert made.exit_code == 0, made.stderr
    return made


def aggregator(town: Path, fedkit: Any, name: str) -> tuple[Journal, Enrolment, str]:
    """An aggregator with one request in it, whose journal is to be closed."""
    invite = read_invite(invited(fedkit, name).stdout)
    journal = Journal(town / "aggregator" / "journal")
    enrolment = Enrolment(journal, Trust.of_ca(invite.ca, invite.server))
    request = make_request(name, KEY, invite.once, invite.expires, invite.sanction)
    return journal, enrolment, enrolment.take(request.data())


def test_one_line_for_one_device_and_the_aggregator_is_told_once(town: Path, fedkit: Any) -> None:
    first = read_invite(invited(fedkit, "ward 7").stdout)
    assert (first.client, first.address) == ("ward 7", "https://fed.example.org:8470")
    second = fedkit("invite", "ward 8")
    assert read_invite(second.stdout).server == first.server
    hexed = fedkit("invite", "ward 9", "--server", first.server.hex())
    assert read_invite(hexed.stdout).server == first.server


def test_a_fleet_as_csv(town: Path, fedkit: Any) -> None:
    made = invited(fedkit, "pi", "--count", "12", "--csv")
    rows = list(csv.DictReader(io.StringIO(made.stdout)))
    assert [row["client"] for row in rows] == [f"pi-{number:02}" for number in range(1, 13)]
    seeds = {read_invite(row["token"]).seed for row in rows}
    assert len(seeds) == 12
    assert [read_invite(row["token"]).client for row in rows] == [row["client"] for row in rows]


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (["c{:03}", "--count", "3"], ["c000", "c001", "c002"]),
        (["c{:03}", "--count", "2", "--first", "300"], ["c300", "c301"]),
        (["ward {} b", "--count", "1"], ["ward 0 b"]),
        (["pi", "--count", "2", "--first", "9"], ["pi-09", "pi-10"]),
    ],
)
def test_names_of_a_fleet(town: Path, fedkit: Any, words: list[str], ids: list[str]) -> None:
    made = invited(fedkit, *words)
    assert [read_invite(line).client for line in made.stdout.split()] == ids


@pytest.mark.parametrize("pattern", ["c{", "c{x}", "c{0.x}", "c{:z}", "c{1}", "{{c}}"])
def test_what_is_no_pattern_of_names(town: Path, fedkit: Any, pattern: str) -> None:
    first = ("--address", "fed.example.org:8470", "--server", "aggregator")
    made = fedkit("invite", pattern, "--count", "2", *first)
    assert (made.exit_code, "as in c{:03}" in made.stderr or "such as c{:03}" in made.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--address HOST:PORT"),
        (["--address", "h:1"], "--server"),
        (["--address", "h"], "HOST:PORT is due"),
        (["--address", "https://h:1"], "HOST:PORT is due"),
        (["--address", "h:1", "--server", "zz"], "neither a folder nor a key"),
        (["--address", "h:1", "--server", "00" * 32], "low order"),
    ],
)
def test_what_an_invite_lacks(town: Path, fedkit: Any, words: list[str], said: str) -> None:
    made = fedkit("invite", "ward 7", *words)
    assert (made.exit_code, said in made.stderr) == (2, True), made.stderr


def test_on_one_machine(town: Path, fedkit: Any) -> None:
    journal, enrolment, _name = aggregator(town, fedkit, "ward 7")
    missing = fedkit("ca", "approve", "ward 8")
    assert (missing.exit_code, "did you mean 'ward 7'" in missing.stderr) == (2, True)
    (town / "aggregator" / "journal" / "enrol" / "requests" / f"{'0' * 64}.json").write_text('{"cut')
    made = fedkit("ca", "approve")
    assert made.stdout == f"client 'ward 7': {fingerprint(KEY.public)}\n"
    assert f"{'0' * 64}.json is passed over, it is damaged" in made.stderr
    journal.close()
    journal = Journal(town / "aggregator" / "journal")
    enrolment = Enrolment(journal, enrolment._trust)
    assert enrolment.key("ward 7") == KEY.public
    journal.close()
    assert fedkit("ca", "approve").stdout == "nobody waits\n"
    assert "ward 7" in fedkit("ca", "list").stdout
    assert "1 certificate revoked" in fedkit("revoke", "ward 7", "--dir", "aggregator").stdout
    assert "revoked" in fedkit("ca", "list").stdout
    journal = Journal(town / "aggregator" / "journal")
    assert Enrolment(journal, enrolment._trust).clients() == []
    journal.close()


def test_on_two_machines(town: Path, fedkit: Any) -> None:
    journal, enrolment, _name = aggregator(town, fedkit, "ward 7")
    assert "1 request" in fedkit("ca", "requests").stdout
    assert "client 'ward 7'" in fedkit("ca", "sign", "requests.jsonl").stdout
    assert fedkit("ca", "import", "answers.jsonl").stdout == "1 answer handed over\n"
    journal.close()
    journal = Journal(town / "aggregator" / "journal")
    assert Enrolment(journal, enrolment._trust).clients() == ["ward 7"]
    journal.close()
    assert "fedkit ca import ca/crl.pem" in fedkit("ca", "revoke", "ward 7").stdout
    assert "handed over" in fedkit("ca", "import", "ca/crl.pem").stdout
    journal = Journal(town / "aggregator" / "journal")
    assert Enrolment(journal, enrolment._trust).clients() == []
    journal.close()


def test_a_copy_of_an_aggregator_is_told_who_was_revoked_since(town: Path, fedkit: Any) -> None:
    journal, enrolment, name = aggregator(town, fedkit, "ward 7")
    assert fedkit("ca", "approve").exit_code == 0
    enrolment._looked = 0.0
    assert enrolment.answer(name) is not None
    trust = enrolment.trust
    journal.close()
    assert fedkit("backup", "copy").exit_code == 0

    def opens() -> list[str]:
        with closing(Journal(town / "copy" / "journal")) as copy:
            return list(Enrolment(copy, trust).clients())

    with pytest.raises(ConfigError, match=r"fedkit ca publish --ca CA --dir \S+copy`"):
        opens()
    time.sleep(1.1)  # a list says when it was signed in whole seconds
    made = fedkit("ca", "publish")
    assert (made.exit_code, "fedkit ca import ca/crl.pem" in made.stdout) == (0, True)
    with pytest.raises(ConfigError, match="fedkit ca publish"):
        opens()
    assert fedkit("ca", "publish", "--dir", "copy").exit_code == 0
    assert opens() == ["ward 7"]


def test_files_that_are_not_ours(town: Path, fedkit: Any) -> None:
    (town / "aggregator" / "journal").mkdir()
    (town / "x").write_text("{}\n")
    for words in (("ca", "sign", "x"), ("ca", "import", "x")):
        made = fedkit(*words)
        assert (made.exit_code, "x:1: fields are" in made.stderr) == (2, True), made.stderr
    made = fedkit("ca", "approve", "--dir", "elsewhere")
    assert (made.exit_code, "no aggregator's directory" in made.stderr) == (2, True)


def test_a_ca_in_the_aggregators_folder_is_no_stand_against_a_lying_server(
    town: Path, fedkit: Any, folder: Path
) -> None:
    (town / "ca").rename(town / "aggregator" / "ca")
    words = ("toy.toml", "secagg.mode=lying_server", "--address", "127.0.0.1:0")
    made = fedkit("serve", *words, "--ca", "aggregator/ca/ca.pem")
    assert (made.exit_code, "could invent clients" in made.stderr) == (2, True), made.stderr
    assert "could invent clients" in fedkit("serve", *words).stderr, "the CA is remembered"


def test_a_ca_in_reach_is_warned_of(town: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trust = Trust.of_ca(ca_key((town / "ca" / "ca.pem").read_bytes()), KEY.public)
    _demand_apart(town / "aggregator", None, trust)
    (town / "ca.pem").write_bytes((town / "ca" / "ca.pem").read_bytes())
    _demand_apart(town / "aggregator", town / "ca.pem", trust)
    assert capsys.readouterr().err == "", "carried alone"
    _demand_apart(town / "aggregator", town / "ca" / "ca.pem", trust)
    assert "ca/identity.pem is the key of the CA, and can be read here" in capsys.readouterr().err


def test_another_ca_does_not_take_over(town: Path, fedkit: Any, folder: Path) -> None:
    words = ("toy.toml", "secagg.mode=lying_server", "secagg.n_min=1", "--address", "127.0.0.1:x")
    fedkit("serve", *words, "--ca", "ca/ca.pem")
    fedkit("ca", "init", "other")
    (town / "aggregator" / "trust.toml").write_text(
        f'server = "{SigningKey(b"s" * 32).public.hex()}"\nca = "{KEY.public.hex()}"\n'
    )
    made = fedkit("serve", "toy.toml", "--ca", "other/ca.pem")
    assert (made.exit_code, "names another CA" in made.stderr) == (2, True)
    junk = fedkit("serve", "toy.toml", "--ca", "toy.toml")
    assert (junk.exit_code, "not a certificate in PEM" in junk.stderr) == (2, True)


def test_what_is_no_invite_does_not_join(town: Path, fedkit: Any) -> None:
    made = fedkit("join", "hello")
    assert (made.exit_code, "is no invite" in made.stderr) == (2, True)
    made = fedkit("rotate", "--dir", "nowhere")
    assert (made.exit_code, "join with" in made.stderr) == (2, True)


def test_a_ca_takes_over(town: Path, fedkit: Any, folder: Path) -> None:
    journal, enrolment, _name = aggregator(town, fedkit, "ward 7")
    journal.close()
    made = fedkit("ca", "rotate", "new")
    assert (made.exit_code, "fedkit ca import ca/next-ca.json" in made.stdout) == (0, True), made.stderr
    assert "announced" in fedkit("ca", "import", "ca/next-ca.json").stdout
    write_trust(town / "aggregator" / "trust.toml", enrolment._trust)
    trust = _trust(town / "aggregator", enrolment._trust.server, None, ROSTER)
    assert trust.cas == (enrolment._trust.ca, ca_key((town / "new" / "ca.pem").read_bytes()))
    moved = _trust(town / "aggregator", enrolment._trust.server, town / "new" / "ca.pem", ROSTER)
    assert moved.cas == trust.cas, "by whichever name"
    shutil.copytree(town / "new", town / "aggregator" / "new")
    made = fedkit("serve", "toy.toml", "secagg.mode=lying_server", "--address", "127.0.0.1:0")
    assert "new/identity.pem is the key of a CA" in made.stderr, "also of the one that takes over"
    (town / "aggregator" / "journal" / "enrol" / "next-ca.json").write_text("{}")
    made = fedkit("serve", "toy.toml")
    assert (made.exit_code, "have it announced again" in made.stderr) == (2, True)


def test_a_third_ca_takes_over_when_the_second_has(
    town: Path, fedkit: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, enrolment, _name = aggregator(town, fedkit, "ward 7")
    journal.close()
    home, server = town / "aggregator", enrolment._trust.server
    write_trust(home / "trust.toml", enrolment._trust)
    assert fedkit("ca", "rotate", "second", "--dir", "aggregator").exit_code == 0
    early = fedkit("ca", "rotate", "early", "--ca", "second", "--dir", "aggregator")
    assert (early.exit_code, "the next has to wait" in early.stderr) == (2, True)
    now = time.time() + 366 * 86_400
    with monkeypatch.context() as later:
        later.setattr("time.time", lambda: now)
        made = fedkit("ca", "rotate", "third", "--ca", "second", "--dir", "aggregator")
    assert made.exit_code == 0, made.stderr
    assert not (town / "early").exists()
    cas = tuple(ca_key((town / name / "ca.pem").read_bytes()) for name in ("second", "third"))
    assert _trust(home, server, None, ROSTER).cas == cas
