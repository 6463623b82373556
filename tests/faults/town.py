"""An aggregator, its CA and devices in one folder: the commands of an operator, typed in this process."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from typer.testing import CliRunner

from fedkit.aggregator.status import standing
from fedkit.ca.certificates import Certified, ca_key, read_certificate
from fedkit.cli import app
from fedkit_clients.edge import join, rotate
from tests.faults.commands import LIMIT, Commands


class Town(Commands):
    """The CA is in `ca`, each device in the folder of its name. `folder` is the current directory."""

    def do(self, *words: str) -> str:
        """A command that ends and succeeds; what it says."""
        made = CliRunner().invoke(app, list(words), catch_exceptions=False)
        assert made.exit_code == 0, made.output
        return made.stdout

    def count(self, log: str, text: str) -> int:
        """How often a pattern is in a log."""
        return len(re.findall(text, self.read(log)))

    def join(self, *names: str, ca: str = "ca", days: float = 180.0) -> None:
        """Devices join."""
        told = ("--address", self.address, "--server", "aggregator", "--ca", ca)
        tokens = [self.do("invite", name, *told) for name in names]
        folders = [self.folder / name for name in names]
        self._certify([partial(join, *pair, LIMIT) for pair in zip(tokens, folders, strict=True)], ca, days)

    def rotate(self, name: str, ca: str = "ca", days: float = 180.0) -> None:
        """A device changes its key."""
        self._certify([partial(rotate, self.folder / name, LIMIT)], ca, days)

    def approve(self, ca: str = "ca", days: float = 180.0) -> None:
        """The CA answers whoever waits."""
        self.do("ca", "approve", "--ca", ca, "--days", f"{days:.9f}")

    def _certify(self, asking: Sequence[Callable[[], None]], ca: str, days: float) -> None:
        """Devices ask, side by side, and the CA answers until all are content."""
        with ThreadPoolExecutor(len(asking)) as pool:
            waiting = [pool.submit(ask) for ask in asking]
            self.until(lambda: self._approved(waiting, ca, days), "asking the CA")
        for one in waiting:
            one.result()

    def _approved(self, waiting: Sequence[Future[None]], ca: str, days: float) -> bool:
        self.approve(ca, days)
        return all(one.done() for one in waiting)

    def certificate(self, name: str, ca: str = "ca") -> Certified:
        """The certificate of a device, which this CA has signed."""
        public = ca_key((self.folder / ca / "ca.pem").read_bytes())
        return read_certificate((self.folder / name / "certificate.pem").read_bytes(), (public,))

    def rounds(self) -> list[dict[str, Any]]:
        """The rounds that are over."""
        path = self.folder / "aggregator" / "run" / "rounds.jsonl"
        *lines, _ = path.read_bytes().split(b"\n") if path.exists() else [b""]
        return [json.loads(line) for line in lines]  # without one that is being written

    def training(self, name: str) -> list[int]:
        """The rounds, from 0, whose task is in the hands of this device; people are told of them from 1."""
        rows = standing(self.folder / "aggregator" / "journal")["clients"]
        tasks = [text for row in rows if row["client"] == name for text in row["tasks"]]
        return [int(text.split()[1]) - 1 for text in tasks if text.endswith(("offered", "training"))]
