"""The page of a search answers its question as far as the trials do, stands alone, and shows every trial."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from hbt_ray.report.search_page import trial_table, write_search_page
from hbt_ray.report.search_text import answer, caveats, summary
from hbt_ray.tune import Space
from hbt_ray.tune.config import TuneConfig
from hbt_ray.tune.search_state import SearchState, Status, Trial, seed_groups
from tests.small_data import small_run

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
    path = write_search_page(folder, shown, space, TuneConfig(), question, **more)
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
    assert html.count("<svg ") == 4 + 2 + 4  # Objectives, fronts, curves.


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
        "Every choice has one seed, so differences may be chance."
    ]


def test_the_lowest_is_best_where_lower_is_better() -> None:
    assert "plan.alpha = 0 has the lowest rank distance: 50.0" in told(TWO, "RankDistance")


def test_an_objective_that_nobody_measured_has_no_answer() -> None:
    assert told(TWO, "pool_loss") == "There is no answer: no finished trial measured pool loss."


def test_the_summary_counts_states_steps_and_hours() -> None:
    shown = board(*TWO.trials, trial(1.0, 0, 0.1, "stopped"))
    assert summary(shown).replace("\u00a0", " ") == (
        "5 trials: 4 finished and 1 stopped. "
        "They trained 100 steps in 2 h 0 min of wall-clock time and 0.0833 GPU hours."
    )
    assert summary(TWO).startswith("4 trials: all finished.")


def test_the_table_is_in_order_of_the_first_objective_and_shades_finished_trials_alone() -> None:
    table = trial_table(board(trial(0.0, 0, 0.4), trial(1.0, 0, 0.9, "stopped"), trial(0.5, 0, 0.5)), ("AP",))
    assert [row[0].text for row in table.rows] == ["0.5", "0", "1"]
    assert [row[2].level for row in table.rows] == [1, 0, None]
    assert [row[0].level for row in table.rows] == [0.5, 0, 1]
    assert [row[1].level for row in table.rows] == [None] * 3  # A seed is a name, not an amount.


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
    assert "Unknown: " in tree.text


def test_domains_names_and_nested_values_have_a_page_too(tmp_path: Path) -> None:
    drawn = Space(search={"plan.alpha": tune.uniform(0, 1), "policy": ["a"]})
    values = [{"stages": [{"from_step": 0, "alpha": 0.5}]}, "hybrid", None, 0.25]
    _, tree = page(tmp_path, board(*(trial(value, 0, 0.5 + i / 100) for i, value in enumerate(values))), drawn)
    assert "{stages: [{from_step: 0, alpha: 0.5}]}" in tree.text
