"""Who may import whom: the table of the house, checked on the source.

A unit is a module of fedkit, a package inside it (codecs, conformance, report, cli), or another of
our packages. A new unit must be entered here; so must a new dependency, which is the point.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "fedkit": ROOT / "fedkit",
    "fedkit_strategies": ROOT / "strategies" / "fedkit_strategies",
    "fedkit_clients": ROOT / "clients" / "fedkit_clients",
    "fedkit_simulations": ROOT / "simulations" / "fedkit_simulations",
}
OPEN = {"errors", "seeds"}
OUTSIDE = {"numpy", "cryptography"}
ANY = "*"  # anything in fedkit but what NOT_ANY names
NOT_ANY = {"cli", "aggregator", "secagg.primitives"}
BASE = {"numpy", "tensors", "messages"}
ROUND = {"aggregate", "federation", "history", "job", "strategy", "trainer", *BASE}

MAY_IMPORT: dict[str, set[str]] = {
    # values
    "errors": {"numpy"},
    "seeds": {"numpy", "cryptography"},
    "tensors": {"numpy"},
    "messages": {"tensors"},
    "aggregate": {"numpy", "messages", "tensors"},
    "fields": set(),
    "cores": set(),
    "packing": {"fields", "numpy", "tensors"},
    "oneline": set(),
    "options": set(),
    "toml": set(),
    # algorithms
    "codecs": {"numpy", "tensors"},
    "strategy": {"aggregate", "messages", "tensors"},
    "trainer": BASE,
    "job": {"aggregate", "codecs", "downlink", "messages", "numpy", "secagg", "strategy", "tensors"},
    "jobfile": {
        *("aggregate", "codecs", "fields", "job", "packing", "pluginfile", "plugins", "secagg", "strategy"),
        "usercode",
        *BASE,
    },
    "securesum": {"aggregate", "codecs", "dressing", "job", "secagg", *BASE},
    "coding": {"codecs", "tensors", "usercode"},
    "dressing": {"aggregate", "codecs", "coding", "job", "usercode", *BASE},
    "usercode": BASE,
    "feedback": {"numpy", "tensors"},
    "downlink": {"codecs", "coding", "numpy", "tensors", "usercode"},
    # what is kept
    "config": BASE,
    "history": {"fields", *BASE},
    "runfolder": {"history", *BASE},
    "checkpoint": {"history", "runfolder", *BASE},
    "clientstore": {"fields", "packing", *BASE},
    "pluginfile": set(),
    "plugins": {"codecs", "options", "pluginfile", "strategy", "toml", "fedkit", *BASE},
    # the seam and both sides of it
    "federation": {"aggregate", "downlink", "job", "messages", "numpy", "secagg", "tensors"},
    "wire": {"fields", "packing", "federation", "messages", "secagg", "tensors"},
    "participant": {
        "clientstore",
        "codecs",
        "dressing",
        "federation",
        "feedback",
        "job",
        "secagg",
        "secureclient",
        "strategy",
        "trainer",
        "usercode",
        *BASE,
    },
    "securecheck": {"codecs", "planning", "secagg", "securesum", "usercode", *ROUND},
    "planning": {"fields", "federation", "messages"},
    "asking": {"downlink", "usercode", *ROUND},
    "stepping": {"usercode", *ROUND},
    "collect": {"codecs", "dressing", "stepping", *ROUND},
    "sums": {"collect", "fields", "packing", *ROUND},
    "quarantine": {"messages", "secagg"},
    "securesession": {"federation", "messages", "secagg", "wire"},
    "secure": {"codecs", "collect", "cores", "quarantine", "secagg", "securesession", "securesum", *ROUND},
    "secureclient": {"dressing", "federation", "job", "planning", "secagg", "securesum", *BASE},
    "measuring": {"collect", "usercode", *ROUND},
    "judging": {"collect", "measuring", "usercode", *ROUND},
    # the loop
    "events": {"federation", "history", "job", "messages", "tensors", "usercode"},
    "ending": {"federation", "history"},
    "fingerprint": {"usercode", *ROUND},
    "observers": {"events", "history", "summary"},
    "summary": {"codecs", "secagg", *ROUND},
    "journal": {
        "checkpoint",
        "fields",
        "fingerprint",
        "planning",
        "runfolder",
        "secagg",
        "summary",
        "usercode",
        *ROUND,
    },
    "arguments": {"codecs", "coding", "plugins", "usercode", *ROUND},
    "loop": {
        *("asking", "checkpoint", "codecs", "collect", "downlink", "dressing", "ending", "events", "journal"),
        *("judging", "measuring", "planning", "quarantine", "secure", "stepping", "summary", "sums"),
        *("usercode", *ROUND),
    },
    "rounds": {
        *("arguments", "codecs", "coding", "downlink", "events", "fingerprint", "journal", "loop"),
        *("planning", "plugins", "runfolder", "secagg", "securecheck", *ROUND),
    },
    # secure aggregation
    "secagg.primitives": {"numpy", "cryptography"},
    "secagg": {"aggregate", "fields", "messages", "numpy", "secagg.primitives", "tensors", "toml"},
    # between devices and the aggregator
    "signing": {"messages", "secagg"},
    "loopback": set(),
    "keyfile": {"cryptography", "runfolder", "secagg"},
    "ca": {"cryptography", "fields", "keyfile", "messages", "runfolder", "secagg", "signing"},
    "aggregator": {ANY, "cryptography", "h11", "numpy", "prometheus_client", "starlette", "uvicorn"},
    # around it
    "scenario_rules": {"config"},
    "scenario_tree": {"config", "options", "pluginfile", "plugins", "toml"},
    "workloads": {"config", "options", "pluginfile", "plugins", "trainer", *BASE},
    "scenario": {
        *(
            "config",
            "options",
            "pluginfile",
            "plugins",
            "scenario_rules",
            "scenario_tree",
            "toml",
            "workloads",
        )
    },
    "launch": {
        *("config", "events", "observers", "options", "plugins", "rounds", "runfolder", "scenario"),
        *("scenario_tree", "secagg", "workloads", *ROUND),
    },
    "report": {"history", "options", "pluginfile", "plugins", "summary", *BASE},
    "conformance": {ANY, "numpy"},
    "cli": {ANY, "aggregator", "typer", "rich"},
    "fedkit": {ANY},
    # the other packages
    "fedkit_strategies": {ANY, "numpy"},
    "fedkit_clients": {ANY, "numpy"},
    "fedkit_clients.edge": {ANY, "numpy", "cryptography"},
    "fedkit_clients.flower": {ANY, "numpy", "flwr"},
    "fedkit_clients.torch": {ANY, "numpy", "torch", "fedkit_clients"},
    "fedkit_simulations": {ANY, "numpy"},
    "fedkit_simulations.workloads": {ANY, "numpy", "fedkit_clients", "fedkit_simulations"},
}

MAY_IMPORT_IN_FUNCTIONS: dict[str, set[str]] = {
    "runfolder": {"safetensors"},
    "observers": {"torch"},
    "conformance": {"torch"},
    "cli": {"torch"},
    "fedkit_clients": {"fedkit_clients.torch", "torch"},
    "fedkit_simulations.workloads": {"torch", "sklearn", "fedkit_clients.torch"},
}


@dataclass(frozen=True)
class Import:
    """One import. lazy: inside a function, or for type checkers only."""

    path: Path
    line: int
    unit: str
    target: str
    lazy: bool

    def __str__(self) -> str:
        where = "inside a function" if self.lazy else "at the top"
        place = f"{self.path.relative_to(ROOT)}:{self.line}"
        return (
            f"{place}: {self.unit} imports {self.target} {where}: not in the table of {Path(__file__).name}"
        )


def unit_of(module: str) -> str:
    """The unit that a dotted module name belongs to; an outside package by its own name."""
    first, *rest = module.split(".")
    if first == "fedkit" and rest[:2] == ["secagg", "primitives"]:
        return "secagg.primitives"
    if first == "fedkit":
        known = rest and (
            (PACKAGES[first] / rest[0]).is_dir() or (PACKAGES[first] / f"{rest[0]}.py").exists()
        )
        return rest[0] if known else first
    if first == "fedkit_clients" and rest and rest[0].startswith("torch_"):
        return "fedkit_clients.torch"
    if first == "fedkit_clients" and rest[:1] in (["edge"], ["flower"]):
        return f"fedkit_clients.{rest[0]}"
    if first == "fedkit_simulations" and rest[:1] == ["workloads"]:
        return "fedkit_simulations.workloads"
    return first


def sources() -> Iterator[tuple[Path, str]]:
    """Every source file of ours and its dotted module name."""
    for package, root in PACKAGES.items():
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if "templates" not in parts:
                yield path, ".".join((package, *(part for part in parts if part != "__init__")))


def targets(node: ast.Import | ast.ImportFrom, module: str) -> list[str]:
    """Dotted names that an import statement loads."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, f"{module}: relative import: write the full name"
    assert node.module is not None
    return [f"{node.module}.{alias.name}" for alias in node.names]


def is_type_checking(node: ast.AST) -> bool:
    """`if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports_of(path: Path, module: str) -> Iterator[Import]:
    """All imports of one file that leave its unit and the standard library."""
    unit = unit_of(module)

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                for name in targets(child, module):
                    target = unit_of(name)
                    if target != unit and name.split(".")[0] not in sys.stdlib_module_names:
                        yield Import(path, child.lineno, unit, target, lazy)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, lazy or inside or is_type_checking(child))

    yield from walk(ast.parse(path.read_text(), str(path)), False)


@cache
def all_imports() -> list[Import]:
    """Every import of our source."""
    return [found for path, module in sources() for found in imports_of(path, module)]


def allowed(found: Import) -> bool:
    """Whether the table lets this import be."""
    may = MAY_IMPORT.get(found.unit, set()) | OPEN
    if found.lazy:
        may |= MAY_IMPORT_IN_FUNCTIONS.get(found.unit, set())
    in_fedkit = found.target == "fedkit" or found.target in MAY_IMPORT
    ours = in_fedkit and not found.target.startswith("fedkit_")
    return found.target in may or (ANY in may and ours and found.target not in NOT_ANY)


def test_every_unit_is_in_the_table_and_exists() -> None:
    assert {unit_of(module) for _, module in sources()} == set(MAY_IMPORT)
    assert set(MAY_IMPORT_IN_FUNCTIONS) <= set(MAY_IMPORT)


def test_imports_are_those_of_the_table() -> None:
    wrong = [str(found) for found in all_imports() if not allowed(found)]
    assert not wrong, "\n" + "\n".join(wrong)


def test_the_walk_sees_imports() -> None:
    """The table would be kept by a walk that sees nothing."""
    seen = {(found.unit, found.target, found.lazy) for found in all_imports()}
    assert {
        ("aggregate", "tensors", False),
        ("clientstore", "packing", False),
        ("clientstore", "fields", False),
        ("runfolder", "safetensors", True),
        ("fedkit_clients.torch", "torch", False),
        ("fedkit_strategies", "strategy", False),
    } <= seen


@pytest.mark.parametrize(
    ("source", "bad"),
    [
        ("import torch", True),
        ("def f():\n    import torch", True),
        ("from fedkit_simulations.engine import Simulation", True),
        ("def f():\n    from fedkit import rounds", True),
        ("from fedkit.secagg.primitives.masks import Mask", True),
        ("from fedkit.tensors import add\nimport json", False),
    ],
)
def test_an_import_that_is_not_in_the_table_is_found(tmp_path: Path, source: str, bad: bool) -> None:
    path = tmp_path / "aggregate.py"
    path.write_text(source)
    wrong = [found for found in imports_of(path, "fedkit.aggregate") if not allowed(found)]
    assert bool(wrong) == bad


@cache
def reached(start: str) -> set[str]:
    """Units and outside packages that importing `start` loads, functions not counted."""
    edges: dict[str, set[str]] = {}
    for found in all_imports():
        if not found.lazy:
            edges.setdefault(found.unit, set()).add(found.target)
    seen: set[str] = set()
    todo = [start]
    while todo:
        unit = todo.pop()
        if unit not in seen:
            seen.add(unit)
            todo += edges.get(unit, set())
    return seen


def test_the_core_loads_numpy_and_cryptography_only() -> None:
    outside = {unit for unit in reached("rounds") if unit not in MAY_IMPORT}
    assert outside == OUTSIDE


def test_there_are_no_circles() -> None:
    for unit in set(MAY_IMPORT) - {"fedkit"}:
        imported = {f.target for f in all_imports() if f.unit == unit and not f.lazy} & set(MAY_IMPORT)
        back = [other for other in imported if unit in reached(other)]
        assert not back, f"{unit} imports {back[0]}, which leads back to it"


def test_nevers() -> None:
    """Rules that no change of the table may break."""
    core = [f for f in all_imports() if f.unit in MAY_IMPORT and not f.unit.startswith("fedkit_")]
    others = {name for name in MAY_IMPORT if name.startswith("fedkit_")}
    never = {"flwr", "ray", "starlette", *others}
    assert not [
        str(f) for f in core if f.target in never and (f.unit, f.target) != ("aggregator", "starlette")
    ]
    pairs = {(f.unit, f.target) for f in all_imports()}
    assert not pairs & {("codecs", "secagg"), ("secagg", "codecs"), ("strategy", "federation")}
    assert not {f.unit for f in core if f.target == "torch" and not f.lazy}


def test_only_secagg_imports_its_primitives() -> None:
    users = {found.unit for found in all_imports() if found.target == "secagg.primitives"}
    assert users <= {"secagg"}


def test_only_the_command_imports_the_aggregator() -> None:
    assert {found.unit for found in all_imports() if found.target == "aggregator"} <= {"cli"}


CLOCK = {"datetime", "random", "time"}
IO = {"asyncio", "http", "multiprocessing", "select", "socket", "ssl", "subprocess", "urllib"}
THREADS = {"concurrent", "threading"}


@pytest.mark.parametrize(("part", "also"), [("", THREADS), ("primitives", set[str]())])
def test_secagg_has_no_clock_no_dice_and_no_io(part: str, also: set[str]) -> None:
    """Threads add masks to slices of a vector: in primitives, and nowhere else."""
    files = list((PACKAGES["fedkit"] / "secagg" / part).glob("*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                used = {name.split(".")[0] for name in targets(node, path.stem)}
                assert not used & (CLOCK | IO | also), f"{path}:{node.lineno}"


BLOCKED = """
import sys

class Block:
    names = {"torch", "flwr", "ray", "safetensors", "typer", "rich", "starlette", "sklearn"}

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names | {"fedkit_strategies", "fedkit_clients", "fedkit_simulations"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
"""


@pytest.mark.parametrize(
    "module", ["fedkit", "fedkit.wire", "fedkit.conformance", "fedkit.clientstore", "fedkit.scenario"]
)
def test_the_library_imports_without_anything_else(module: str) -> None:
    code = f"{BLOCKED}\nimport {module}\nprint('imported')"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert made.stdout == "imported\n", made.stderr


def test_the_block_blocks() -> None:
    made = subprocess.run(
        [sys.executable, "-c", f"{BLOCKED}\nimport safetensors"], capture_output=True, text=True
    )
    assert "safetensors is blocked" in made.stderr
