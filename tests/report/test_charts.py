from __future__ import annotations

import json
import re

from fedkit.report.charts import Layer, Line, bar_chart, fill, line_chart
from fedkit.report.units import count_axis, number_axis

X = count_axis("rounds", 4, ends_on_tick=False)
NAN = float("nan")


def _line(values: list[float], name: str = "a") -> Line:
    points = [(float(i), value) for i, value in enumerate(values)]
    return Line(name, "c0", points, [f"round {i}" for i in range(len(values))])


def _path(chart: str, kind: str) -> str:
    found = re.search(rf'<path d="([^"]*)" class="{kind}"', chart)
    assert found is not None
    return found.group(1)


def _hover(chart: str) -> list[dict[str, list[object]]]:
    block = re.search(r'<script type="application/json">(.*?)</script>', chart)
    assert block is not None
    found: list[dict[str, list[object]]] = json.loads(block.group(1))
    return found


def test_a_line_goes_through_its_points() -> None:
    chart = line_chart("m", [_line([0.0, 0.5, 1.0, 0.0, 0.0])], X, number_axis("m", [0.0, 1.0]))
    assert _path(chart, "line c0") == "M0 1000L250 500L500 0L750 1000L1000 1000"


def test_a_value_that_is_not_finite_leaves_a_gap() -> None:
    chart = line_chart("m", [_line([0.0, NAN, 1.0, float("inf"), 0.0])], X, number_axis("m", [0.0, 1.0]))
    assert _path(chart, "line c0") == "M0 1000M500 0M1000 1000"
    assert _hover(chart)[0]["y"] == [1000, None, 0, None, 1000]
    assert _hover(chart)[0]["t"] == ["0", "nan", "1", "inf", "0"]


def test_a_single_point_is_a_dot() -> None:
    chart = line_chart("m", [_line([0.5])], X, number_axis("m", [0.0, 1.0]))
    assert _path(chart, "dots c0") == "M0 500h0"


def test_many_points_have_no_dots() -> None:
    chart = line_chart("m", [_line([0.5] * 60)], count_axis("rounds", 60), number_axis("m", [0.0, 1.0]))
    assert "dots" not in chart


def test_failed_rounds_are_marked_and_explained() -> None:
    chart = line_chart("m", [_line([0.0, 1.0])], X, number_axis("m", [0.0, 1.0]), marks=[2.0])
    assert _path(chart, "failed-mark") == "M500 0V1000"
    assert "round failed" in chart
    assert "round failed" not in line_chart("m", [_line([0.0, 1.0])], X, number_axis("m", [0.0, 1.0]))


def test_bars_are_stacked() -> None:
    layers = [
        Layer("counted", "counted", [2, 1]),
        Layer("lost", "lost", [0, 3]),
        Layer("late", "late", [0, 0]),
    ]
    y = count_axis("clients", 4)
    chart = bar_chart("p", layers, ["round 1", "round 2"], count_axis("rounds", 2), y)
    assert _path(chart, "fill counted") == "M50 1000V500H450V1000zM550 1000V750H950V1000z"
    assert _path(chart, "fill lost") == "M550 750V0H950V750z"
    assert "late" not in chart
    assert [line["t"] for line in _hover(chart)] == [["0", "3"], ["2", "1"]]


def test_hover_shares_what_lines_have_in_common() -> None:
    lines = [_line([0.0, 1.0]), _line([1.0, 0.0], "b"), _line([1.0], "c")]
    first, second, third = _hover(line_chart("m", lines, X, number_axis("m", [0.0, 1.0])))
    assert first["x"] == [0, 250]
    assert "x" not in second
    assert third["h"] == ["round 0"]


def test_a_value_far_outside_is_cut_off() -> None:
    chart = line_chart("m", [_line([1e308, 0.0])], X, number_axis("m", [0.0, 1.0]))
    assert _path(chart, "line c0") == "M0 -9000L250 1000"


def test_names_are_text() -> None:
    chart = line_chart("<m>", [_line([1.0], "</script><script>")], X, number_axis("m", [1.0]))
    assert "<m>" not in chart
    assert chart.count("<script") == 1


def test_boxes_without_area_are_left_out() -> None:
    assert fill([(0, 0, 0, 1), (0, 0.5, 1, 0.5)], "c0") == '<path d="" class="fill c0"/>'
