"""README and docs: code blocks run as a reader would run them, links lead somewhere, lists are complete.

A page's blocks run in their order in one empty folder:

    python      executed, all blocks of a page in one module
    console     `$ command` is run; the other lines must occur in its output, numbers aside; `...`
                stands for any lines, or for the rest of its line
    toml        a scenario, which must read without an error

A python or toml block whose first line is `# NAME.py` or `# NAME.toml` is a file: it is written, not
executed. A comment above a block changes this: `<!-- test: exit 2 -->` expects that exit code,
`<!-- test: skip, REASON -->` leaves the block out, `<!-- test: needs FILE -->` does so unless the data
file is in the directory FEDKIT_DATA.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import fedkit
from fedkit.scenario import read
from fedkit_clients import NumpyWorkload, Softmax

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OTHERS = ("data.md", "benchmarks.md")  # the first has a test of its own, the second takes hours
PAGES = [ROOT / "README.md", *sorted(p for p in DOCS.glob("*.md") if p.name not in OTHERS)]
BLOCK = re.compile(r"(?:^<!-- test: (?P<test>.*?) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
NEEDED = (
    *(("torch", "torch"), ("digits", "sklearn"), ("--tensorboard", "tensorboard")),
    *(("from flwr", "flwr.serverapp"), ("from flwr", "flwr.clientapp")),
)
"""A word on a page, and the package that its blocks need."""
FILE = re.compile(r"# ([\w/.-]+\.(?:py|toml))\n")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, what its comment asks, where it is."""

    kind: str
    text: str
    test: str
    place: str


def blocks(page: Path) -> Iterator[Block]:
    source = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(source):
        line = source.count("\n", 0, match.start("kind")) + 1
        yield Block(match["kind"], match["text"], match["test"] or "", f"{page.name}:{line}")


def run_python(block: Block, page: ModuleType) -> None:
    exec(compile(block.text, block.place, "exec"), page.__dict__)


def run_console(block: Block, folder: Path) -> None:
    expected = int(block.test.removeprefix("exit ")) if block.test.startswith("exit ") else 0
    for command, shown in commands(block.text):
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        done = subprocess.run(
            command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
        )
        output = done.stdout + done.stderr
        assert done.returncode == expected, f"{block.place}: {command}: {done.returncode}\n{output}"
        there = [plain(line) for line in output.splitlines()]
        for line in shown:
            found = any(matches(line, other) for other in there)
            assert found, f"{block.place}: {command}: does not print\n{line}\nbut\n{output}"


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """(command, the lines that the page shows below it)."""
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command, *shown = part.replace("\\\n", " ").splitlines()
        yield command, [line for line in shown if line.strip() not in ("", "...")]


def left_out(block: Block) -> bool:
    """Whether the block's comment says so, here."""
    data = Path(os.environ.get("FEDKIT_DATA", os.devnull))
    needs = block.test.removeprefix("needs ") if block.test.startswith("needs ") else ""
    return block.test.startswith("skip, ") or bool(needs and not (data / needs).is_file())


def matches(shown: str, printed: str) -> bool:
    """Whether a line of the page stands for a line (already plain) of the output."""
    start, dots, _ = shown.partition(" ...")
    return printed.startswith(plain(start)) if dots else printed == plain(shown)


def plain(line: str) -> str:
    """A line without its numbers and the width of its gaps, which depend on the machine."""
    line = re.sub(r"\b[0-9a-f]{16}\b|\d[\d.,]*", "#", line)
    line = re.sub(r"# (ms|s|min|h|B|kB|MB)\b", "#", line)
    return re.sub(r"\s+", " ", re.sub(r"(# )+#", "#", line)).strip()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = page.read_text(encoding="utf-8")
    for word, package in NEEDED:
        if word in source:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what a package warns of when it is imported is not ours
                pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # as with `python` in that folder
    module = ModuleType(f"page_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(page):
        file = FILE.match(block.text)
        if left_out(block):
            continue
        if file:
            Path(file[1]).parent.mkdir(parents=True, exist_ok=True)
            Path(file[1]).write_text(block.text, encoding="utf-8")
        if block.kind == "toml":
            assert file, f"{block.place}: name the file in the first line"
            read(file[1])
        elif block.kind == "console":
            run_console(block, tmp_path)
        elif block.kind == "python" and not file:
            run_python(block, module)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_comments_of_blocks_are_understood(page: Path) -> None:
    asked = re.findall(r"^<!-- test: (.*) -->\n(.*)$", page.read_text(encoding="utf-8"), re.M)
    for test, below in asked:
        assert re.fullmatch(r"exit \d+|skip, .{10,}|needs [\w.]+\.npz", test), f"{page.name}: {test!r}"
        assert below.startswith("```"), f"{page.name}: {test!r} does not stand above a block"


def slug(title: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(title) for title in re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(BLOCK, "", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        there = page.parent / file if file else page
        assert there.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(there), f"{page.name} links to {target}"


def test_the_first_run_of_ones_own_takes_under_15_lines() -> None:
    first = next(block for block in blocks(ROOT / "README.md") if block.kind == "python")
    lines = [line for line in first.text.splitlines() if line.strip()]
    assert "nn." in first.text
    assert len(lines) < 15


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"^\$ make ([a-z-]+)|`make ([a-z-]+)`", page.read_text(), re.M):
            assert re.search(rf"^{''.join(target)}:", makefile, re.M), f"{page.name}: make {''.join(target)}"


def test_api_lists_every_public_name() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    for name in fedkit.__all__:
        assert f"`{name}`" in page, f"fedkit.{name} is not in docs/api.md"


def test_every_strategy_has_its_section() -> None:
    named = anchors(DOCS / "strategies.md")
    ours = importlib.metadata.distribution("fedkit").entry_points.select(group="fedkit.strategies")
    for entry in ours:
        assert entry.name in named, f"strategy {entry.name} is not in docs/strategies.md"


def test_the_tutorial_explains_everything_a_run_leaves(tmp_path: Path) -> None:
    page = (DOCS / "tutorial-simulate.md").read_text(encoding="utf-8")
    x, y = np.eye(4, dtype=np.float32), np.arange(4) % 2
    workload = NumpyWorkload(Softmax(4, 2), {"a": (x, y)}, test=(x, y))
    result = fedkit.run("fedavg", workload, rounds=1, out=tmp_path / "run", scenario="seed = 0\n")
    record = [field.name for field in dataclasses.fields(fedkit.RoundRecord)]
    files = [path.name for path in (tmp_path / "run").iterdir()]
    assert "summary.json" in files
    for name in (*result.summary, *record, *files):
        assert f"`{name}`" in page or f"`{name}/`" in page, f"{name} is not in docs/tutorial-simulate.md"


def test_the_tests_that_the_threat_model_names_are_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (DOCS / "threat-model.md").read_text(encoding="utf-8")))
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 20
    assert [name for name in sorted(named) if f"def {name}(" not in written] == []
