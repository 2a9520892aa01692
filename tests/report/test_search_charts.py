"""Charts of a search show every trial with its settings, its step and its value, on axes that fit the settings."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from hbt_ray.report.charts import Chart
from hbt_ray.report.search_charts import critical_chart, curve_chart, front_chart, objective_chart, value_axis
from hbt_ray.tune.critical_batch import BatchSizePoint, CriticalBatchFit
from hbt_ray.tune.search_state import SearchState, seed_groups
from tests.report.test_search_page import TWO, board, trial

SIZES = (32, 64, 128, 256, 512)
POINTS = tuple(BatchSizePoint(size, {"rate": 1.0}, (100 + 64000 / size, 110 + 64000 / size)) for size in SIZES)


def elements(chart: Chart, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(str(chart.svg)).iter(tag))


def tooltips(chart: Chart) -> list[str]:
    return [path.attrib["aria-label"] for path in elements(chart, "path") if "aria-label" in path.attrib]


def texts(chart: Chart) -> list[str]:
    return [text.text or "" for text in elements(chart, "text")]


def by_alpha(state: SearchState, objective: str = "AP") -> Chart:
    chart = objective_chart(seed_groups(state, "plan.alpha"), objective, "plan.alpha")
    assert chart is not None
    return chart


def strokes(chart: Chart) -> list[float]:
    """Heights of the vertical bars of intervals."""
    lines = [line for line in elements(chart, "line") if line.attrib.get("stroke-width") == "2"]
    return [abs(float(line.attrib["y2"])) for line in lines]


def test_every_seed_and_every_mean_has_a_point() -> None:
    chart = by_alpha(TWO)
    assert tooltips(chart) == [
        "plan.alpha = 0, seed = 0, step 20: AP .500",
        "plan.alpha = 0, seed = 1, step 20: AP .501",
        "plan.alpha = 0.5, seed = 0, step 20: AP .600",
        "plan.alpha = 0.5, seed = 1, step 20: AP .601",
        "plan.alpha = 0: AP .500 (95\u00a0% interval .494 to .507), mean of 2 seeds",
        "plan.alpha = 0.5: AP .601 (95\u00a0% interval .594 to .607), mean of 2 seeds",
    ]
    assert len(strokes(chart)) == 2
    assert {"0", "0.5", "plan.alpha"} <= set(texts(chart))
    assert "plan.alpha = 0: .500" in chart.description


def test_an_interval_of_any_width_stays_within_the_frame() -> None:
    wide = board(trial(0.0, 0, 0.5), trial(0.0, 1, 0.6), trial(0.5, 0, 0.55), trial(0.5, 1, 0.56))
    chart = by_alpha(wide)
    height = max(float(line.attrib["y2"]) for line in elements(chart, "line") if line.attrib.get("stroke-width") == "1")
    assert max(strokes(chart)) <= height or max(strokes(chart)) < 250
    assert chart.note == "intervals that end at the edge go on beyond it"
    assert by_alpha(TWO).note == ""


def test_other_values_make_series_while_there_are_colours() -> None:
    def over(rates: int) -> SearchState:
        trials = [trial(alpha, rate, 0.5 + rate / 100) for alpha in (0.0, 0.5) for rate in range(rates)]
        for each in trials:
            each.values["rate"] = each.values["seed"]
        return board(*trials)

    few, many = by_alpha(over(3)), by_alpha(over(5))
    assert [text for text in texts(few) if text.startswith("rate")] == ["rate = 0", "rate = 1", "rate = 2"]
    assert not [text for text in texts(many) if text.startswith("rate")]
    assert few.svg.count('stroke-width="1.25"') == 3
    assert many.svg.count('stroke-width="1.25"') == 0, "no line through several points at one value"


def test_what_was_not_fixed_after_training_has_a_name_in_the_legend() -> None:
    trials = [trial(alpha, seed, 0.5) for alpha in (0.0, 0.5) for seed in (0, 1)]
    fixed = [trial(alpha, seed, 0.6, posthoc="lir") for alpha in (0.0, 0.5) for seed in (0, 1)]
    for each in fixed:
        each.values["posthoc"] = "lir"
    assert {"posthoc = none", "posthoc = lir"} <= set(texts(by_alpha(board(*trials, *fixed))))


def test_the_front_is_of_its_two_objectives() -> None:
    trials = [trial(alpha, 0, ap) for alpha, ap in ((0.0, 0.3), (0.5, 0.5), (1.0, 0.6))]
    trials[1].rows[20]["mono_AP"] = 0.3  # Worse than the last in both.
    chart = front_chart(board(*trials), "mono_AP", "cross_AP", "plan.alpha")
    assert chart is not None
    shares = [label.split(",")[0].removeprefix("plan.alpha = ") for label in tooltips(chart)]
    assert shares == ["0.5", "1", "0"], "the front comes last"
    assert tooltips(chart)[-1].endswith("seed = 0: monolingual AP .700, cross-lingual AP .200")
    assert {"0", "1"} <= set(texts(chart))
    assert chart.title == "Cross-lingual AP by monolingual AP"


def test_curves_show_the_best_trial_and_those_that_did_not_finish() -> None:
    chart = curve_chart(board(trial(0.0, 0, 0.4), trial(0.5, 0, 0.5), trial(1.0, 0, 0.3, "stopped")), "AP")
    assert chart is not None
    assert [text for text in texts(chart) if "finished" in text or "best" in text] == [
        "best: plan.alpha = 0.5, seed = 0", "finished", "not finished",
    ]  # fmt: skip
    assert tooltips(chart)[-1] == "plan.alpha = 0.5, seed = 0, step 20: AP .500", "the best is drawn last"
    assert len(tooltips(chart)) == 6


def test_an_objective_that_nobody_measured_has_no_chart() -> None:
    assert objective_chart(seed_groups(TWO, "plan.alpha"), "pool_loss", "plan.alpha") is None
    assert front_chart(TWO, "AP", "pool_loss", "plan.alpha") is None
    assert curve_chart(TWO, "pool_loss") is None


def test_a_large_search_keeps_its_charts_small() -> None:
    trials = [trial(alpha / 200, 0, 0.5 + alpha / 1000) for alpha in range(200)]
    for each in trials:
        each.rows = {step: {"AP": step / 200, "mono_AP": 0.5, "cross_AP": 0.5} for step in range(1, 101)}
    chart = curve_chart(board(*trials), "AP")
    assert chart is not None
    assert len(chart.svg) < 300_000


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([32, 64, 128, 256, 512], "log"),
        ([0.013, 0.2, 0.45, 0.5, 0.7, 0.98], "linear"),  # Drawn from all of [0, 1].
        ([3e-4, 6e-4, 1e-3, 2e-3, 3e-3], "log"),
        ([0.0, 0.25, 1.0], "linear"),
        ([0.5], "linear"),
        (["rows", "pair"], "names"),
        ([True, False], "names"),
    ],
)
def test_axes_are_of_factors_only_if_values_are(values: list[Any], scale: str) -> None:
    assert value_axis(values, "").scale == scale


def test_axes_show_few_values_themselves_and_round_numbers_for_many() -> None:
    assert value_axis([32, 64, 128], "").ticks == (32, 64, 128)
    assert value_axis([i / 100 for i in range(100)], "").ticks == ()


def critical(
    estimate: float = 128, interval: tuple[float, float] = (64, 256), objective: str = "AP"
) -> CriticalBatchFit:
    left_out = {1024.0: "does not reach it"}
    return CriticalBatchFit(objective, 0.5, POINTS, 100, 64000, estimate, interval, left_out=left_out)


def band(chart: Chart) -> str:
    """Left edge and right edge of the shaded interval."""
    shapes = [path.attrib["d"] for path in elements(chart, "path") if path.attrib.get("opacity") == "0.13"]
    return shapes[0] if shapes else ""


def test_the_critical_batch_size_is_drawn_with_its_interval() -> None:
    chart = critical_chart(critical())
    assert len(tooltips(chart)) == 10
    assert tooltips(chart)[0] == "batch size 32, rate = 1: 2,100 steps"
    assert {"fit", "linear scaling", "critical batch size 128, with its 95 % interval"} <= set(texts(chart))
    assert {"32", "64", "128", "256", "512", "batch size"} <= set(texts(chart))
    assert band(chart)
    assert "95 % interval: 64 to 256" in chart.description


def test_without_a_limit_there_is_no_rule_and_no_infinite_number() -> None:
    chart = critical_chart(critical(math.inf, (256, math.inf)))
    assert not [text for text in texts(chart) if text.startswith("critical")]
    assert band(chart)
    assert "No limit seen up to a batch size of 512" in chart.description
    assert not re.search("NaN|Infinity|null", chart.svg)
    assert not band(critical_chart(critical(5000, (4000, 6000))))


def test_the_critical_chart_names_its_target_and_what_is_left_out() -> None:
    chart = critical_chart(critical(objective="mono_AP"))
    assert chart.title == "Steps to monolingual AP .500"
    assert "Not in the fit: 1,024 does not reach it." in chart.note
    assert "steps = 100 + 64,000 / batch size" in chart.note
