"""HTML that is safe by construction: a plain string is text and gets escaped, only Html is markup."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

_VOID = {"path", "meta", "input", "br"}


class Html(str):
    """Markup that `el`, `join` or `data` made; anything else is text."""

    __slots__ = ()


def el(tag: str, *children: str, **attributes: str) -> Html:
    """An element. A trailing underscore of an attribute's name is dropped (class_), others are hyphens.

    >>> el("b", "1 < 2", class_="x", data_n="3")
    '<b class="x" data-n="3">1 &lt; 2</b>'
    """
    given = "".join(f' {k.rstrip("_").replace("_", "-")}="{html.escape(v)}"' for k, v in attributes.items())
    if tag in _VOID:
        return Html(f"<{tag}{given}/>")
    return Html(f"<{tag}{given}>{join(children)}</{tag}>")


def join(parts: Iterable[str], between: str = "") -> Html:
    """The parts one after the other, text escaped."""
    return Html(_safe(between).join(_safe(part) for part in parts))


def data(value: object) -> Html:
    """A JSON block that the page's script reads and the browser never runs."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Html(f'<script type="application/json">{text.replace("<", chr(92) + "u003c")}</script>')


def table(head: Sequence[str], rows: Iterable[Sequence[str]], class_: str = "") -> Html:
    """A table in a frame that scrolls sideways on a small screen."""
    top = el("thead", el("tr", *[el("th", cell) for cell in head]))
    body = el("tbody", *[el("tr", *[el("td", cell) for cell in row]) for row in rows])
    return el("div", el("table", top, body), class_=f"wide {class_}".strip())


def section(title: str, *children: str, note: str = "") -> Html:
    """A titled part of the page."""
    said = [el("p", note, class_="note")] if note else []
    return el("section", el("h2", title), *said, *children)


def choice(name: str, titles: Sequence[str], first: int = 0) -> list[Html]:
    """Buttons of which one is pressed, `first` at first; style.css acts on them (t0, t1 ...)."""
    parts: list[Html] = []
    for index, title in enumerate(titles):
        key = f"{name}{index}"
        checked = {"checked": ""} if index == first else {}
        parts.append(el("input", type="radio", name=name, id=key, class_=f"tab t{index}", **checked))
        parts.append(el("label", title, for_=key))
    return parts


def tabs(name: str, panels: Sequence[tuple[str, Html]], first: int = 0) -> Html:
    """Panels of which one is seen at a time, `first` at first, without any script; on paper all are."""
    shown = [el("div", el("h3", title, class_="paper"), body, class_="panel") for title, body in panels]
    return el("div", *choice(name, [title for title, _ in panels], first), *shown, class_="tabs")


def write_page(path: Path, title: str, *body: str) -> Path:
    """Write one self-contained page: it loads nothing and runs no script but its own.

    What stands at `path` is replaced whole, or left as it was when OSError is raised.
    """
    style, script = (_resource(name) for name in ("style.css", "script.js"))
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        Html(f"<style>{style}</style>"),
    )
    whole = el("html", head, el("body", el("main", *body), Html(f"<script>{script}</script>")), lang="en")
    _replace(path, f"<!doctype html>\n{whole}\n")
    return path


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".tmp")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def _safe(part: str) -> str:
    return part if isinstance(part, Html) else html.escape(part)


def _resource(name: str) -> str:
    return files("fedkit.report").joinpath(name).read_text(encoding="utf-8")
