from __future__ import annotations

import math
import re

import pytest

from hbt_ray.report.chart import Chart
from hbt_ray.report.search.critical_batch import LogScale, critical_chart, round_ticks
from hbt_ray.tune.critical_batch import BatchSizePoint, CriticalBatchFit

POINTS = tuple(
    BatchSizePoint(size, {"rate": 1.0}, (100 + 64000 / size, 110 + 64000 / size)) for size in (32, 64, 128, 256, 512)
)


def critical(
    estimate: float = 128, interval: tuple[float, float] = (64, 256), objective: str = "AP"
) -> CriticalBatchFit:
    return CriticalBatchFit(
        objective, 0.5, POINTS, 100, 64000, estimate, interval, left_out={1024.0: "does not reach it"}
    )


def paths(chart: Chart, style: str) -> list[str]:
    return [line.path for line in chart.lines if line.style == style]


def xs(path: str) -> list[float]:
    return [float(x) for x in re.findall(r"[ML](-?\d+) ", path)]


def test_it_has_every_point_and_every_line() -> None:
    chart = critical_chart(critical())
    (fit,), (linear,), (points,) = (paths(chart, style) for style in ("mono", "target", "plain mean raw"))
    assert points.count("h0") == 10
    assert len(xs(fit)) == len(xs(linear)) == 100
    assert all(0 <= x <= 1000 for x in xs(points) + xs(fit))
    assert xs(points)[0] == xs(fit)[0]
    assert xs(points)[4] == 500  # The middle size, by logarithms.


def test_linear_scaling_is_straight_and_the_fit_bends_away() -> None:
    chart = critical_chart(critical())
    ys = [[float(y) for y in re.findall(r" (-?\d+)", paths(chart, style)[0])] for style in ("target", "mono")]
    slopes = [b - a for a, b in zip(ys[0], ys[0][1:], strict=False)]
    assert max(slopes) - min(slopes) <= 1  # Up to whole pixels.
    assert ys[1][-1] < ys[0][-1] - 100  # Down is fewer steps.


def test_the_critical_size_stands_in_its_band() -> None:
    chart = critical_chart(critical())
    (rule,), (band,) = paths(chart, "cross"), paths(chart, "band")
    assert rule == "M500 0V1000"
    right, left = map(int, re.findall(r"H(\d+)", band))
    assert left < 500 < right
    assert left + right == 1000
    assert ("cross", "critical batch size 128, with its 95 % interval") in chart.legend
    assert "95 % interval: 64 to 256" in chart.description


def test_without_a_limit_the_band_is_open_and_there_is_no_rule() -> None:
    chart = critical_chart(critical(math.inf, (256, math.inf)))
    assert paths(chart, "cross") == []
    assert "H1000V1000" in paths(chart, "band")[0]
    assert "No limit seen up to a batch size of 512" in chart.description
    assert not any("inf" in path.path for path in chart.lines)
    assert paths(critical_chart(critical(5000, (4000, 6000))), "band") == []


def test_words_are_those_of_the_page() -> None:
    chart = critical_chart(critical(objective="mono_AP"))
    assert chart.title == "Steps to monolingual AP .500"
    assert "Not in the fit: 1,024 does not reach it." in chart.note
    assert "steps = 100 + 64,000 / batch size" in chart.note


@pytest.mark.parametrize(("low", "high"), [(90, 120), (100, 2500), (1.5, 640000)])
def test_axes_have_a_few_round_ticks(low: float, high: float) -> None:
    ticks = round_ticks(low, high)
    assert 1 <= len(ticks) <= 9
    assert all(low <= tick <= high for tick in ticks)
    marks = LogScale(low, high, ticks).marks()
    assert all(0 <= share <= 100 for share, _ in marks)
