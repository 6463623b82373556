"""The tree of errors is the one that is drawn, and messages say what and where."""

from __future__ import annotations

import inspect
import re

import pytest

from fedkit import errors


def drawn() -> dict[str, str]:
    """Class -> parent, from the picture at the top of errors.py."""
    parents: dict[str, str] = {}
    stack: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([│├└─ ]*)([A-Z]\w+)", line)
        if match is None or not hasattr(errors, match[2]):
            continue
        depth = len(match[1]) // 4
        stack[depth:] = [match[2]]
        parents[match[2]] = stack[depth - 1] if depth else "Exception"
    return parents


def test_the_picture_is_the_tree() -> None:
    classes = {n: c for n, c in vars(errors).items() if inspect.isclass(c) and issubclass(c, Exception)}
    assert drawn() == {name: kind.__bases__[0].__name__ for name, kind in classes.items()}
    assert len(classes) >= 11


def test_errors_carry_what_they_are_about() -> None:
    layout = errors.LayoutError("conv", "is missing")
    refused = errors.UpdateRefused("writer-7", "conv", "holds nan")
    failed = errors.ClientFailed("diverged", "conv", "holds nan")
    broken = errors.ConformanceError("is pure", "it is not")
    assert str(layout) == "tensor 'conv': is missing"
    assert (layout.subject, layout.reason) == ("conv", "is missing")
    assert str(refused) == "update of client 'writer-7' refused: 'conv' holds nan"
    assert (refused.client, refused.subject, refused.reason) == ("writer-7", "conv", "holds nan")
    assert (failed.code, failed.subject) == ("diverged", "conv")
    assert (broken.law, str(broken)) == ("is pure", "is pure: it is not")


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("fedprx", ["fedavg", "fedprox"], "did you mean 'fedprox'?"),
        ("zzz", ["b", "a"], "known: a, b"),
        ("zzz", [], "none is known"),
    ],
)
def test_nearest(name: str, known: list[str], hint: str) -> None:
    assert errors.nearest(name, known) == hint
