"""The page of a search answers its question as far as the trials do, stands alone, and shows every trial."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from hbt_ray.report.search.axis import Axis
from hbt_ray.report.search.figures import curve_chart, front_chart, objective_chart
from hbt_ray.report.search.page import write_report
from hbt_ray.report.search.table import trial_table
from hbt_ray.report.search.text import answer, caveats, summary
from hbt_ray.tune import Space
from hbt_ray.tune.config import TuneConfig
from hbt_ray.tune.state import SearchState, Status, Trial, seed_groups
from tests.worlds import small_run

SPACE = Space(search={"plan.alpha": [0.0, 0.5, 1.0]}, seeds=2)
QUESTION = "Which share\nis best?\n\nCosts six runs."
VOID = {"meta", "br", "wbr"}


def trial(alpha: Any, seed: int, ap: float, status: Status = "finished", **more: Any) -> Trial:
    name = f"alpha={alpha},seed={seed}"
    measures = {"AP": ap, "mono_AP": 1 - ap, "cross_AP": ap - 0.1, "RankDistance": 100 * ap}
    rows = {10: {name: value / 2 for name, value in measures.items()}, 20: measures}
    return Trial(name, name, {"plan.alpha": alpha, "seed": seed}, 20, 1.0, status, rows, 60, 1, **more)


def board(*trials: Trial) -> SearchState:
    return SearchState(list(trials), seconds=7200, last=1000)


TWO = board(*(trial(alpha, seed, 0.5 + alpha / 5 + seed / 1000) for alpha in (0.0, 0.5) for seed in (0, 1)))


class Tree(HTMLParser):
    """Raises where an element is closed that was not opened."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.rows = 0
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not any(name in ("src", "href") for name, _ in attrs), "the page needs something else"
        self.rows += tag == "tr" and "tbody" in self.open
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def page(
    folder: Path, shown: SearchState, space: Space = SPACE, question: str = QUESTION, **more: Any
) -> tuple[str, Tree]:
    path = write_report(folder, shown, space, TuneConfig(), question, **more)
    assert path == folder / "report.html"
    html = path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|@import|url\(", html)
    return html, Tree(html)


def told(shown: SearchState, objective: str = "AP") -> str:
    return answer(shown, seed_groups(shown, "plan.alpha"), objective).replace("\u00a0", " ")


def test_the_page_has_question_answer_and_every_trial(tmp_path: Path) -> None:
    failed = trial(1.0, 0, 0.1, "failed", error="StreamError: <shard> is damaged")
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "AP.yaml").touch()
    html, tree = page(tmp_path, board(*TWO.trials, failed))
    assert "Which share is best?" in tree.text
    assert "Costs six runs." in tree.text
    assert "StreamError: <shard> is damaged" in tree.text
    assert "<shard>" not in html
    assert f"hbt train {tmp_path / 'best' / 'AP.yaml'}" in tree.text
    assert "Highest AP of a single trial, .601: plan.alpha = 0.5, seed = 1." in tree.text
    assert tree.rows == 2 + 5  # Choices and trials.
    assert html.count("<svg") == 4 + 2 + 4  # Objectives, fronts, curves.


def test_the_best_that_was_a_fix_after_training_has_the_command_that_fixes(tmp_path: Path) -> None:
    best = trial(0.5, 0, 0.7, posthoc="lir")
    best.values["posthoc"] = "lir"
    (tmp_path / "best").mkdir()
    config = small_run(tmp_path).model_copy(update={"name": "sweep-best-AP", "store": "/data/my store"})
    (tmp_path / "best" / "AP.yaml").write_text(f"# The best\n{config.to_yaml()}")
    _, tree = page(tmp_path, board(*TWO.trials, best))
    first = f"hbt train {tmp_path / 'best' / 'AP.yaml'}"
    then = f"hbt posthoc sweep-best-AP --method lir --store '/data/my store' storage_path={tmp_path / 'runs'}"
    assert f"{first}\n{then}" in tree.text
    _, tree = page(tmp_path, TWO)
    assert "hbt posthoc" not in tree.text
    (tmp_path / "best" / "AP.yaml").write_text("")
    _, tree = page(tmp_path, board(*TWO.trials, best))
    assert first in tree.text
    assert "hbt posthoc" not in tree.text


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (board(), "There is no answer yet: no trial has finished."),
        (board(trial(0.5, 0, 0.5, "stopped")), "There is no answer yet: no trial has finished."),
        (board(trial(0.5, 0, 0.5, "failed", error="E")), "There is no answer: every trial failed."),
    ],
)
def test_a_page_without_finished_trials_says_so(tmp_path: Path, shown: SearchState, words: str) -> None:
    _, tree = page(tmp_path, shown, question="")
    assert words in tree.text
    assert "None yet: they are made of finished trials." in tree.text
    assert tree.rows == len(shown.trials)


def test_intervals_that_are_apart_decide() -> None:
    assert told(TWO) == (
        "Of two choices, plan.alpha = 0.5 has the highest AP: .601 (95 % interval .594 to .607). "
        "Its interval is apart from that of the runner-up, plan.alpha = 0.0 at .500 (95 % interval .494 to .507)."
    ).replace("0.0", "0")


def test_intervals_that_overlap_leave_it_undecided() -> None:
    near = board(*(trial(alpha, seed, 0.5 + alpha / 500 + seed / 1000) for alpha in (0.0, 0.5) for seed in (0, 1)))
    assert "It is undecided which is best: the interval overlaps" in told(near)


def test_one_seed_decides_nothing() -> None:
    once = board(trial(0.0, 0, 0.2), trial(0.5, 0, 0.9))
    assert "undecided" in told(once)
    assert "one seed has no interval" in told(once)
    assert caveats(once, seed_groups(once, "plan.alpha")) == [
        "Every choice has one seed, so nothing says what is chance."
    ]


def test_the_lowest_is_best_where_lower_is_better() -> None:
    assert "plan.alpha = 0 has the lowest rank distance: 50.0" in told(TWO, "RankDistance")


def test_an_objective_that_nobody_measured_has_no_answer() -> None:
    assert told(TWO, "pool_loss") == "There is no answer: no finished trial measured pool loss."
    assert objective_chart(seed_groups(TWO, "plan.alpha"), "pool_loss", "plan.alpha") is None
    assert front_chart(TWO, "AP", "pool_loss", "plan.alpha") is None
    assert curve_chart(TWO, "pool_loss") is None


def test_the_summary_counts_states_steps_and_hours() -> None:
    shown = board(*TWO.trials, trial(1.0, 0, 0.1, "stopped"))
    assert summary(shown).replace("\u00a0", " ") == (
        "5 trials: 4 finished and 1 stopped. They trained 100 steps in 2 h 0 min of the clock and 0.0833 GPU hours."
    )
    assert summary(TWO).startswith("4 trials: all finished.")


def test_a_chart_has_a_dot_a_seed_and_a_bar_a_choice() -> None:
    chart = objective_chart(seed_groups(TWO, "plan.alpha"), "AP", "plan.alpha")
    assert chart is not None
    paths = {line.style: line.path for line in chart.lines}
    assert paths["mono seed raw"].count("h0") == 4
    assert paths["mono mean raw"].count("h0") == paths["mono interval"].count("V") == 2
    assert [label for _, label in chart.x] == ["0", "0.5"]
    assert "plan.alpha = 0: .500" in chart.description


def test_an_interval_of_any_width_stays_within_the_frame() -> None:
    wide = board(trial(0.0, 0, 0.5), trial(0.0, 1, 0.6), trial(0.5, 0, 0.55), trial(0.5, 1, 0.56))
    chart = objective_chart(seed_groups(wide, "plan.alpha"), "AP", "plan.alpha")
    assert chart is not None
    (bars,) = (line.path for line in chart.lines if "interval" in line.style)
    ends = [int(number) for number in re.findall(r"(?: |V)(-?\d+)", bars)]
    assert min(ends) == 0
    assert max(ends) == 1000
    assert chart.note == "intervals that end at the edge go on beyond it"


def test_other_values_make_series_while_there_are_colours() -> None:
    def over(rates: int) -> SearchState:
        trials = [trial(alpha, rate, 0.5 + rate / 100) for alpha in (0.0, 0.5) for rate in range(rates)]
        for each in trials:
            each.values["rate"] = each.values["seed"]
        return board(*trials)

    few, many = (objective_chart(seed_groups(over(n), "plan.alpha"), "AP", "plan.alpha") for n in (3, 5))
    assert few is not None
    assert many is not None
    assert few.legend == (("mono", "rate = 0"), ("cross", "rate = 1"), ("mixed", "rate = 2"))
    assert many.legend == ()
    assert not [line for line in many.lines if "thin" in line.style]  # No line through several points at one value.


def test_what_was_not_fixed_after_training_has_a_name_in_the_legend() -> None:
    trials = [trial(alpha, seed, 0.5) for alpha in (0.0, 0.5) for seed in (0, 1)]
    fixed = [trial(alpha, seed, 0.6, posthoc="lir") for alpha in (0.0, 0.5) for seed in (0, 1)]
    for each in fixed:
        each.values["posthoc"] = "lir"
    chart = objective_chart(seed_groups(board(*trials, *fixed), "plan.alpha"), "AP", "plan.alpha")
    assert chart is not None
    assert chart.legend == (("mono", "posthoc = none"), ("cross", "posthoc = lir"))


def test_the_front_is_of_its_two_objectives() -> None:
    trials = [trial(alpha, 0, ap) for alpha, ap in ((0.0, 0.3), (0.5, 0.5), (1.0, 0.6))]
    trials[1].rows[20]["mono_AP"] = 0.3  # Worse than the last in both.
    chart = front_chart(board(*trials), "mono_AP", "cross_AP", "plan.alpha")
    assert chart is not None
    paths = {line.style: line.path for line in chart.lines}
    assert paths["plain seed raw"].count("h0") == 3
    assert paths["cross mean raw"].count("h0") == 2
    assert {label for _, _, label in chart.labels} == {"0", "1"}


def test_curves_of_trials_that_were_stopped_are_faint_and_the_best_stands_out() -> None:
    chart = curve_chart(board(trial(0.0, 0, 0.4), trial(0.5, 0, 0.5), trial(1.0, 0, 0.3, "stopped")), "AP")
    assert chart is not None
    assert [line.style for line in chart.lines] == ["faint", "plain thin", "mono"]
    assert chart.legend[0] == ("mono", "best: alpha 0.5, seed 0")


def test_the_table_is_in_order_of_the_first_objective_and_shades_finished_trials_alone() -> None:
    table = trial_table(board(trial(0.0, 0, 0.4), trial(1.0, 0, 0.9, "stopped"), trial(0.5, 0, 0.5)), ("AP",))
    assert [row.trial.values["plan.alpha"] for row in table.rows] == [0.5, 0.0, 1.0]
    assert [row.figures[0].style for row in table.rows] == ["number h40", "number h0", "number"]
    assert [row.values[0].style for row in table.rows] == ["number h20", "number h0", "number h40"]
    assert [row.values[1].style for row in table.rows] == ["number"] * 3  # A seed is a name, not an amount.


def of_size(size: int, rate: float) -> Trial:
    """Reaches AP 0.4 in 20 + 2000 / size steps at the best rate."""
    steps = (20 + 2000 / size) * (1 if rate == 1 else 1.3)
    rows = {i: {"AP": 0.04 * i * 10 / steps} for i in range(0, 200, 5)}
    return Trial(f"{size}-{rate}", "x", {"plan.batch_size": size, "rate": rate}, 195, 0, "finished", rows)


def test_batch_sizes_have_their_critical_one(tmp_path: Path) -> None:
    space = Space(search={"plan.batch_size": [32, 64, 128, 256], "rate": [0.5, 1.0]}, batch_sizes=True)
    sizes = board(*(of_size(size, rate) for size in (32, 64, 128, 256) for rate in (0.5, 1.0)))
    html, tree = page(tmp_path, sizes, space)
    assert tree.text.index("Critical batch size") < tree.text.index("Trials")
    assert "Steps to AP ." in html


def test_too_few_batch_sizes_are_said(tmp_path: Path) -> None:
    space = Space(search={"plan.batch_size": [32, 64]}, batch_sizes=True)
    _, tree = page(tmp_path, board(of_size(32, 1.0), of_size(64, 1.0)), space)
    assert "It cannot be said" in tree.text


def test_domains_names_and_nested_values_have_a_page_too(tmp_path: Path) -> None:
    drawn = Space(search={"plan.alpha": tune.uniform(0, 1), "policy": ["a"]})
    values = [{"stages": [{"from_step": 0, "alpha": 0.5}]}, "hybrid", None, 0.25]
    _, tree = page(tmp_path, board(*(trial(value, 0, 0.5 + i / 100) for i, value in enumerate(values))), drawn)
    assert "{stages: [{from_step: 0, alpha: 0.5}]}" in tree.text


def test_axes_are_of_factors_only_where_values_are() -> None:
    assert Axis.over([32, 64, 128, 256, 512]).kind == "log"
    assert Axis.over([0.013, 0.2, 0.45, 0.5, 0.7, 0.98]).kind == "linear"  # Drawn from all of [0, 1].
    assert Axis.over([3e-4, 6e-4, 1e-3, 2e-3, 3e-3]).kind == "log"
    assert Axis.over([0.0, 0.25, 1.0]).kind == "linear"
    assert Axis.over(["rows", "pair"]).kind == Axis.over([True, False]).kind == "names"


def test_axes_show_the_values_where_they_have_room_and_round_numbers_where_not() -> None:
    assert [label for _, label in Axis.over([32, 64, 128]).marks] == ["32", "64", "128"]
    crowded = Axis.over([i / 100 for i in range(100)])
    assert [label for _, label in crowded.marks] == ["0", "0.2", "0.4", "0.6", "0.8"]
    powers = [label for _, label in Axis.over([10 ** (i / 10) for i in range(51)]).marks]
    assert powers == ["1", "10", "100", "1,000", "10,000", "100,000"]
    (only,) = Axis.over([0.5]).marks
    assert only == (50.0, "0.5")
