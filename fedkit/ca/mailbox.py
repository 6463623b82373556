"""The folder by which an aggregator and its CA exchange files: on one machine, or carried between two.

    requests/ID.json   the aggregator's: what devices ask     crl.pem       the CA's list of revocations
    answers/ID.json    the CA's: what they get                next-ca.json  the CA's word on its successor

Nothing in it is believed by where it lies: everything is signed, and checked by who reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from fedkit.runfolder import replace_file

WITHIN = Path("journal") / "enrol"
"""Where it is in the directory of an aggregator."""
BIGGEST = 1 << 24
"""Most bytes of a file that is read."""
_NAME = re.compile(r"[0-9a-f]{64}\.json")


class Mailbox:
    """The exchange in `folder`, made if there is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("requests", "answers"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def ask(self, name: str, data: bytes) -> None:
        """Leave a request for the CA."""
        replace_file(self.folder / "requests" / f"{name}.json", data)

    def requests(self) -> Iterator[tuple[str, bytes]]:
        """Ids of requests, and the requests, in the order of their ids."""
        return _files(self.folder / "requests")

    def tell(self, name: str, data: bytes) -> None:
        """Leave an answer for the aggregator."""
        replace_file(self.folder / "answers" / f"{name}.json", data)

    def answers(self) -> Iterator[tuple[str, bytes]]:
        """Ids of requests, and the answers to them."""
        return _files(self.folder / "answers")

    def done(self, name: str) -> None:
        """A request was answered and the answer taken."""
        for part in ("requests", "answers"):
            (self.folder / part / f"{name}.json").unlink(missing_ok=True)

    def put(self, name: str, data: bytes) -> None:
        """Leave crl.pem or next-ca.json for the aggregator."""
        replace_file(self.folder / name, data)

    def get(self, name: str) -> bytes:
        """Such a file; empty if there is none."""
        return _read(self.folder / name)

    def stamp(self) -> tuple[int, ...]:
        """Changes whenever the CA has left something."""
        places = (self.folder, self.folder / "answers")
        return tuple(place.stat().st_mtime_ns for place in places)


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.iterdir()):
        if _NAME.fullmatch(path.name) and (data := _read(path)):
            yield path.stem, data


def _read(path: Path) -> bytes:
    """The bytes of a plain file that is not beyond measure; else nothing."""
    try:
        if path.is_symlink() or path.stat().st_size > BIGGEST:
            return b""
        return path.read_bytes()
    except FileNotFoundError:
        return b""
