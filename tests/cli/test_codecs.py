"""`fedkit codecs`: traits, sizes and papers of what is registered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedkit import plugins
from fedkit.codecs import AUTO

Command = Callable[..., Any]


def listed(fedkit: Command) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(fedkit("codecs", "--format", "json").stdout)}


def test_every_registered_codec_is_listed_with_its_own_traits(fedkit: Command) -> None:
    rows = listed(fedkit)
    assert rows.keys() == set(plugins.names("fedkit.codecs"))
    for row in rows.values():
        codec = plugins.codec(row["example"])
        assert (row["unbiased"], row["secure"]) == (codec.unbiased, codec.ring)
        assert row["feedback"] == (codec.contractive and not codec.unbiased)
        assert row["description"]
        assert row["distribution"].startswith("fedkit ")


def test_bits_are_those_of_one_parameter(fedkit: Command) -> None:
    rows = listed(fedkit)
    assert rows["none"]["bits"] == 32
    assert rows["bfloat16"]["bits"] == pytest.approx(16, abs=0.01)
    assert rows["eden"]["bits"] == pytest.approx(1.02, abs=0.02)
    assert 0.5 < rows["ecsq"]["bits"] < 1
    assert rows["ring-srht"]["bits"] < 1


def test_what_is_no_codec_alone_is_shown_before_one(fedkit: Command) -> None:
    rows, text = listed(fedkit), fedkit("codecs").stdout
    whole, parts = text.split("Before a codec, joined by |:")
    for name, row in rows.items():
        assert row["kind"] == (
            "codec" if name == row["example"] else "rules" if name == "tensors" else "stage"
        )
        assert f"{row['example']} " in (whole if row["kind"] == "codec" else parts)
        assert row["paper"] in text
    assert rows["topk"]["example"] == "topk|int8"
    assert rows["sample"]["example"] == "rotate|sample|int8"
    assert "delta=4,mode=stoch,block=4096" in text


def test_every_trait_and_auto_are_explained(fedkit: Command) -> None:
    text = fedkit("codecs").stdout
    legend = text[text.index("\nbits: ") :]
    shown = {word for row in listed(fedkit).values() for word in _traits(row)}
    assert shown == {"unbiased", "feedback", "biased", "secure"}
    for word in shown:
        assert f"{word}: " in legend
    assert f"auto: the codec that suits the direction, whole: codec.up = {AUTO['up']}" in legend
    assert AUTO["down"] in legend


def _traits(row: dict[str, Any]) -> list[str]:
    return [name for name in ("unbiased", "feedback", "secure") if row[name]] or ["biased"]


def test_a_broken_codec_does_not_hide_the_others(
    fedkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fedkit.codecs]\nbad = no_such_module_here:X\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert listed(fedkit)["bad"]["kind"] == "broken"
    text = fedkit("codecs").stdout
    assert "bad (broken 1.0) cannot be used: codec 'bad'" in text
    assert "ecsq" in text
