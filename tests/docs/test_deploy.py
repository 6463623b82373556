"""docs/tutorial-deploy.md, with both terminals: every command as it stands there, but for the port."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ports import reserved

PAGE = Path(__file__).parents[2] / "docs" / "tutorial-deploy.md"
LIMIT = 600.0
FEDKIT = f'{sys.executable} -c "import sys; from fedkit.cli import main; sys.exit(main())"'


def section() -> str:
    """The section of the two terminals."""
    return PAGE.read_text(encoding="utf-8").split("## Two terminals\n")[1].split("\n## ")[0]


class Terminals:
    """Runs commands in one folder; those that do not end by themselves beside the others."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder, self._port = folder, port
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def type(self, command: str) -> None:
        stays = command.endswith(" &") or command.startswith("fedkit serve")
        words = command.removesuffix(" &").replace("8470", str(self._port))
        log = self._folder / f"{len(self.running)}.log"
        shell = words.replace("fedkit ", f"exec {FEDKIT} " if stays else f"{FEDKIT} ", 1)
        if stays:
            with log.open("wb") as said:
                process = subprocess.Popen(
                    shell, shell=True, cwd=self._folder, stdout=said, stderr=subprocess.STDOUT
                )
            self.running[words] = process
            return
        done = subprocess.run(shell, shell=True, cwd=self._folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"

    def logs(self) -> str:
        """The ends of all logs; what is written at this moment may end within a character."""
        said = {path.name: path.read_text(errors="replace") for path in self._folder.glob("*.log")}
        return "\n".join(f"== {name}\n{text[-2000:]}" for name, text in said.items())

    def until(self, what: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT
        while not what():
            assert time.monotonic() < end, self.logs()
            assert not [p.args for p in self.running.values() if p.poll() not in (None, 0)], self.logs()
            time.sleep(0.05)


@pytest.fixture
def terminals(tmp_path: Path) -> Iterator[Terminals]:
    with reserved() as port:
        made = Terminals(tmp_path, port)
        yield made
        for process in made.running.values():
            process.kill()
            process.wait(LIMIT)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the page speaks to a POSIX shell")
def test_the_page_leads_to_a_model(tmp_path: Path, terminals: Terminals) -> None:
    for name, text in re.findall(r"^```toml\n# (\S+)\n(.*?)^```$", section(), re.M | re.S):
        (tmp_path / name).write_text(text)
    typed = re.findall(r"^\$ (.*)$", section(), re.M)
    assert len(typed) == 10
    for command in typed:
        if command == "fedkit ca approve":
            asked = tmp_path / "aggregator" / "journal" / "enrol" / "requests"
            terminals.until(lambda asked=asked: len(list(asked.glob("*.json"))) == 2)  # type: ignore[misc]
        if command.startswith("fedkit client") and command.endswith("c000 &"):
            joins = [p for words, p in terminals.running.items() if words.startswith("fedkit join")]
            terminals.until(lambda joins=joins: all(p.poll() == 0 for p in joins))  # type: ignore[misc]
        terminals.type(command)
        if command.startswith("fedkit serve"):
            terminals.until(lambda: "listening on" in terminals.logs())
    (serve,) = [p for words, p in terminals.running.items() if words.startswith("fedkit serve")]
    terminals.until(lambda: serve.poll() is not None)
    assert serve.returncode == 0, terminals.logs()
    assert (tmp_path / "aggregator" / "run" / "report.html").is_file()
    assert (tmp_path / "model.safetensors").is_file()
    assert (tmp_path / "audit.jsonl").read_text().count('"message": "EncodedUpdate"') == 3
    clients = [p for words, p in terminals.running.items() if words.startswith("fedkit client")]
    assert [p.poll() for p in clients] == [None, None], "they wait for the next run"
    for process in clients:
        process.terminate()
        assert process.wait(LIMIT) == 0
