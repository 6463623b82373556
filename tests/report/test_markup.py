from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.report.markup import Html, data, el, join, section, table, tabs, write_page


@given(st.text())
def test_text_never_becomes_markup(text: str) -> None:
    made = el("p", text, title=text)
    inside = made.removeprefix("<p title=").removesuffix("</p>")
    assert inside.count("<") == 0
    assert inside.count(">") == 1
    assert made.count('"') == 2


def test_markup_is_not_escaped_twice() -> None:
    assert el("p", el("b", "&"), "&") == "<p><b>&amp;</b>&amp;</p>"
    assert join(["<", Html("<br/>")], between="&") == "&lt;&amp;<br/>"
    assert "<td>&lt;i&gt;</td>" in table(["a"], [["<i>"]])
    assert "&lt;i&gt;" in section("<i>", note="<i>")


def test_text_formatted_with_markup_is_text_again() -> None:
    assert el("p", f"{el('b', 'x')}") == "<p>&lt;b&gt;x&lt;/b&gt;</p>"


@given(
    st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_data_cannot_end_its_block(value: object) -> None:
    block = data(value)
    inside = block.removeprefix('<script type="application/json">').removesuffix("</script>")
    assert "<" not in inside
    assert json.loads(inside) == value


def test_tabs_show_the_first_panel_at_first() -> None:
    made = tabs("x", [("one", el("p", "1")), ("two", el("p", "2"))])
    assert made.count("checked") == 1
    assert made.index("checked") < made.index("one") < made.index("two")


def test_tabs_can_begin_with_another_panel() -> None:
    made = tabs("x", [("one", el("p", "1")), ("two", el("p", "2"))], first=1)
    assert made.count("checked") == 1
    assert made.index('id="x1"') < made.index("checked")


def test_page_allows_only_its_own_script(tmp_path: Path) -> None:
    text = write_page(tmp_path / "x.html", "<title>", "body & soul").read_text(encoding="utf-8")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src &#x27;sha256-{digest}&#x27;" in text
    assert "default-src &#x27;none&#x27;" in text
    assert "<title>&lt;title&gt;</title>" in text
    assert "body &amp; soul" in text
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text)


def test_a_page_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = write_page(tmp_path / "x.html", "old", "body")
    before = page.read_bytes()
    whole = Path.write_text

    def half(path: Path, text: str, **words: str) -> int:
        whole(path, text[:100], **words)
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space"):
        write_page(page, "new", "body")
    assert page.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.html"]
