"""Charts show the numbers they were given, and text from data literally."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from hbt_ray.report.charts import Axis, Canvas, Chart, Row
from hbt_ray.report.training import dev_chart, dev_loss_chart, smooth
from tests.report.test_evaluation_page import sample_dev


def test_smoothing_is_centred_and_keeps_the_ends() -> None:
    assert smooth(np.array([1.0, 2.0, 3.0, 10.0]), 3).tolist() == pytest.approx([1.5, 2.0, 5.0, 6.5])


HOSTILE = [
    "<script>alert(1)</script>",
    "datum.x",
    "[/b]",
    '"><img src=x>',
    "{{ 7*7 }}",
    "${x}",
    "a\\u003cb",
    "&lt;",
    "'+x+'",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_in_charts_is_shown_literally(text: str) -> None:
    names = Canvas(Axis(text, scale="names", names=(text, "b")), Axis(text), {text: "mono", "other": "cross"})
    rows = [Row(text, 1.0, text, text), Row("b", 2.0, text, "other")]
    layers = (names.line(rows), names.points(rows), names.labels(rows))
    svg = Chart(text, text, layers).svg
    root = ElementTree.fromstring(str(svg))
    assert {child.tag for child in root.iter()} <= {"svg", "rect", "g", "path", "line", "text"}
    assert {child.attrib["aria-label"] for child in root.iter("path") if "aria-label" in child.attrib} == {text}
    shown = [child.text for child in root.iter("text")]
    assert shown.count(text) == 6, "two axes, their title, a legend, a tick and two labels"


def test_dev_measures_are_drawn_and_the_best_checkpoint_is_marked() -> None:
    steps = Axis("step", (0, 400))
    chart = dev_chart(sample_dev(), 200, steps)
    assert chart is not None
    root = ElementTree.fromstring(str(chart.svg))
    labels = [path.attrib["aria-label"] for path in root.iter("path") if "aria-label" in path.attrib]
    assert labels[::3] == [f"step 100: {name} AP {ap:.3f}" for name, ap in
                           (("monolingual", 0.8), ("cross-lingual", 0.2), ("multilingual", 0.4))]  # fmt: skip
    shown = [text.text for text in root.iter("text")]
    assert {"monolingual", "cross-lingual", "multilingual", "best checkpoint: step 200"} <= set(shown)
    assert dev_loss_chart(sample_dev(), None, steps) is not None
    only = dev_chart([{"step": 100, "AP": 0.4, "mono_AP": 0.4}], None, steps)
    assert only is not None
    assert "cross-lingual" not in only.svg
    assert dev_chart([], None, steps) is None
    assert dev_loss_chart([{"step": 100, "AP": 0.4}], None, steps) is None
