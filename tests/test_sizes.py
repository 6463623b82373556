"""Sizes of the house: files of 300 lines, functions of 50. What is longer is two things: cut it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("fedkit", "strategies", "clients", "simulations")
FILE_LINES = 300
FUNCTION_LINES = 50
Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> list[Path]:
    """Every Python file that is ours to keep short."""
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def length(function: Function) -> int:
    """Lines of a function without its docstring. A parameter is one line, however it is written."""
    first, *rest = function.body
    told = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and bool(rest)
    arguments = function.args
    parameters = len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs])
    start = rest[0] if told else first
    return 1 + parameters + (function.end_lineno or 0) - start.lineno + 1


def functions(text: str) -> Iterator[tuple[str, int]]:
    """Name and length of every function, methods and inner ones too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, Function):
            yield node.name, length(node)


def test_files_are_short() -> None:
    long = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in sources()}
    assert not {path: lines for path, lines in long.items() if lines > FILE_LINES}


def test_functions_are_short() -> None:
    long = {
        f"{path.relative_to(ROOT)}:{name}": lines
        for path in sources()
        for name, lines in functions(path.read_text())
    }
    assert not {name: lines for name, lines in long.items() if lines > FUNCTION_LINES}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("def f(): return 1", 2),
        (
            "def f(\n    a: int,\n    *,\n    b: int = g(\n        1\n    ),\n) -> int:\n"
            '    """A.\n\n    B.\n    """\n    return a',
            4,
        ),
        ("class A:\n    async def f(self) -> None:\n        a = 1\n\n        return a", 5),
        ('def f() -> None:\n    """Only told."""', 2),
    ],
)
def test_the_walk_counts(text: str, lines: int) -> None:
    """The rules would be kept by a walk that sees nothing."""
    assert list(functions(text)) == [("f", lines)]
