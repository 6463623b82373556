"""Files between an aggregator and its CA."""

from __future__ import annotations

from pathlib import Path

from fedkit.ca import mailbox
from fedkit.ca.mailbox import Mailbox


def test_files_come_and_go(tmp_path: Path) -> None:
    box, name = Mailbox(tmp_path / "enrol"), "ab" * 32
    before = box.stamp()
    box.ask(name, b"request")
    box.tell(name, b"answer")
    box.put("crl.pem", b"list")
    assert (list(box.requests()), list(box.answers())) == ([(name, b"request")], [(name, b"answer")])
    assert (box.get("crl.pem"), box.get("next-ca.json")) == (b"list", b"")
    assert box.stamp() != before
    box.done(name)
    box.done(name)
    assert not [*box.requests(), *box.answers()]


def test_strange_files_are_left_alone(tmp_path: Path) -> None:
    box = Mailbox(tmp_path / "enrol")
    for name in ("x.json", "AB" * 32 + ".json", "ab" * 32 + ".json.tmp"):
        (box.folder / "answers" / name).write_bytes(b"x")
    (box.folder / "answers" / ("cd" * 32 + ".json")).symlink_to(tmp_path / "enrol")
    with (box.folder / "answers" / ("ef" * 32 + ".json")).open("wb") as file:
        file.truncate(mailbox.BIGGEST + 1)
    assert list(box.answers()) == []
