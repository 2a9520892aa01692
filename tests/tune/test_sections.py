"""What some searches tell beside their objectives, on their page."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

from hbt_ray.report.search.page import write_report
from hbt_ray.report.search.sections import importance_rows, sections
from hbt_ray.tune import Space
from hbt_ray.tune.config import TuneConfig
from hbt_ray.tune.state import SearchState, Trial

SIZES = [32, 64, 128, 256, 512]
SPACE = Space({"plan.batch_size": SIZES, "rate": [0.5, 1.0]}, seeds=2, batch_sizes=True)
SETTINGS = TuneConfig(objectives=("AP", "RankDistance"))


def trial(size: int, rate: float, seed: int, steps: float) -> Trial:
    """AP is half of its share of the steps, up to six tenths."""
    values = {"plan.batch_size": size, "rate": rate, "seed": seed}
    rows = {round(i * steps / 10): {"AP": 0.05 * i, "RankDistance": 50.0 - i * rate} for i in range(1, 13)}
    name = f"{size}-{rate}-{seed}"
    return Trial(name, name, values, max(rows), status="finished", rows=rows)


def board(sizes: list[int] = SIZES) -> SearchState:
    """The critical batch size is 0.2 * 64,000 / 100 = 128, at a rate of 1."""
    return SearchState(
        [
            trial(size, rate, seed, (1000 + 640000 / size) / rate * (1 + 0.05 * seed))
            for size, rate, seed in product(sizes, (0.5, 1.0), range(2))
        ]
    )


def test_the_critical_batch_size_is_on_the_page_of_a_search_for_it(tmp_path: Path) -> None:
    first, *_ = sections(board(), SPACE, SETTINGS)
    assert first.title == "Critical batch size"
    assert first.summary.startswith("The critical batch size is 128 (95 % interval: ")
    assert "Steps are those until AP is .600" in first.summary
    html = write_report(tmp_path, board(), SPACE, SETTINGS, "Which?").read_text()
    assert html.index('class="band"') < html.index('<h2 id="trials">')
    assert "critical batch size 128, with its 95 % interval" in html


def test_too_few_sizes_are_a_reason_on_the_page_and_other_searches_have_no_such_section() -> None:
    first, *_ = sections(board(SIZES[:2]), SPACE, SETTINGS)
    assert first.summary.startswith("It cannot be said: 2 batch sizes tell when they reach AP = 0.6")
    assert not first.figures
    other = Space(SPACE.search, seeds=2)
    assert [section.title for section in sections(board(), other, SETTINGS)] == ["Which key matters"]


def test_a_search_without_trials_has_no_table_of_keys() -> None:
    assert list(sections(SearchState([]), Space(SPACE.search), SETTINGS)) == []
    assert [section.title for section in sections(SearchState([]), SPACE, SETTINGS)] == ["Critical batch size"]


def test_one_key_needs_no_table() -> None:
    only = SearchState(
        [Trial(f"{i}", "t", {"a": i % 2}, 10, status="finished", rows={10: {"AP": i / 10}}) for i in range(6)]
    )
    assert len(importance_rows(only, ("AP",))) == 1
    assert list(sections(only, Space({"a": [0, 1]}), SETTINGS)) == []


def test_fixes_after_training_are_a_key_beside_the_one_that_was_searched() -> None:
    trials = [
        Trial(f"{a}{fix}", "t", {"a": a, **({"posthoc": fix} if fix else {})}, 10, status="finished",
              rows={10: {"AP": a / 10 + len(fix)}}, fix=fix)
        for a in (0, 1) for fix in ("", "lir", "shift")
    ]  # fmt: skip
    assert [row.key for row in importance_rows(SearchState(trials), ("AP",))] == ["posthoc", "a"]
    assert len(list(sections(SearchState(trials), Space({"a": [0, 1]}), SETTINGS))) == 1


def of(a: int, b: str, seed: int) -> Trial:
    rows = {10: {"AP": (3 * a + (b == "<y>")) / 10, "RankDistance": 5.0 if b == "<y>" else 7.0}}
    return Trial(f"{a}{b}{seed}", "t", {"a": a, "b": b, "seed": seed}, 10, status="finished", rows=rows)


def test_keys_are_ordered_by_the_first_objective_with_what_chance_would_show() -> None:
    found = SearchState([of(a, b, seed) for a, b, seed in product((0, 1), ("x", "<y>"), range(2))])
    (a, b) = importance_rows(found, ("AP", "RankDistance"))
    assert (a.key, a.values, a.trials) == ("a", 2, 8)
    assert [(cell.share, cell.chance) for cell in a.cells] == [("90%", "(14%)"), ("0%", "(14%)")]
    assert [cell.share for cell in b.cells] == ["10%", "100%"]
    assert [row.key for row in importance_rows(found, ("RankDistance", "AP"))] == ["b", "a"]
    (section,) = sections(found, Space({"a": [0, 1], "b": ["x", "<y>"]}), SETTINGS)
    assert section.html is not None
    assert section.html.count("<tr>") == 1 + 2


def test_an_objective_that_nobody_measured_is_a_dash_and_sorts_last() -> None:
    found = SearchState([of(a, b, seed) for a, b, seed in product((0, 1), ("x", "<y>"), range(2))])
    row = importance_rows(found, ("AP", "pool_loss"))[0]
    assert (row.cells[1].share, row.cells[1].sort) == ("–", "")
    assert math.isclose(float(row.cells[0].sort), 0.9)
