"""What some searches tell beside their objectives, on their page."""

from __future__ import annotations

from itertools import product
from pathlib import Path

from hbt_ray.report.search.page import write_report
from hbt_ray.report.search.sections import sections
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
    assert list(sections(board(), other, SETTINGS)) == []


def test_a_search_without_trials_has_a_section_only_if_it_varies_the_batch_size() -> None:
    assert list(sections(SearchState([]), Space(SPACE.search), SETTINGS)) == []
    assert [section.title for section in sections(SearchState([]), SPACE, SETTINGS)] == ["Critical batch size"]
