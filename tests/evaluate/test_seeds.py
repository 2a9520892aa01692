"""Runs that differ by their seeds alone, as one system: means of measures and of queries, and intervals."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from hbt_ray.errors import TaskError
from hbt_ray.evaluate.compare.seeds import averaged
from hbt_ray.evaluate.compare.table import SEEDS_NOTE, compare
from hbt_ray.evaluate.verdict.evidence import PER_QUERY, Evidence
from hbt_ray.evaluate.verdict.verdict import MULTILINGUAL, Verdict
from hbt_ray.run import Run
from hbt_ray.workflow.reporting import judged, make_report
from tests.evaluate.test_report_evidence import kept, queries, verdict_of
from tests.worlds import small_run

QUALITIES = (0.5, 0.52, 0.57)


@pytest.fixture
def seeds(tmp_path: Path) -> list[Evidence]:
    tables = [queries(quality, number) for number, quality in enumerate(QUALITIES)]
    return [kept(tmp_path / str(n), verdict_of(f"r{n}", table), table) for n, table in enumerate(tables)]


def a_run(folder: Path, name: str, quality: float, *overrides: str, task: str = "toy") -> Run:
    config = small_run(folder, f"name={name}", *overrides)
    run = config.run
    table = queries(quality, hash(name) % 1000)
    kept(run.verdict(task), verdict_of(name, table, task), table)
    run.config.write_text(config.to_yaml())
    return run


def test_every_mean_is_that_of_the_seeds(seeds: list[Evidence]) -> None:
    mean = averaged(seeds, "all").verdict
    for setting, measures in mean.settings.items():
        for name, value in measures.items():
            values = [each.verdict.settings[setting][name] for each in seeds]
            assert value == pytest.approx(np.mean(values))
            assert mean.of_seeds[setting][name] == values
    assert mean.pairs["de"]["en"]["AP"] == pytest.approx(np.mean([s.verdict.pairs["de"]["en"]["AP"] for s in seeds]))
    assert (mean.model, mean.num_queries) == ("all", seeds[0].verdict.num_queries)


def test_macro_averages_of_the_mean_queries_are_those_of_the_mean_verdict(seeds: list[Evidence]) -> None:
    """Whatever order the rows of a seed have."""
    table = pq.read_table(seeds[1].folder / PER_QUERY)
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    pq.write_table(shuffled, seeds[1].folder / PER_QUERY)
    seeds[1].verdict.save(seeds[1].folder)
    mean = averaged(seeds, "all")
    assert mean.queries is not None
    assert len(mean.queries) == len(table)
    again = verdict_of("all", mean.queries.select(table.column_names))
    for setting, measures in again.settings.items():
        assert measures == pytest.approx(mean.verdict.settings[setting])


def test_a_seed_without_queries_leaves_the_mean_without(seeds: list[Evidence]) -> None:
    (seeds[2].folder / PER_QUERY).unlink()
    seeds[2].verdict.save(seeds[2].folder)
    assert averaged([Evidence(each.verdict, each.folder) for each in seeds], "all").queries is None


def test_other_questions_have_no_mean(seeds: list[Evidence]) -> None:
    other = Verdict(**{**seeds[1].verdict.model_dump(), "num_queries": {"ar": 1, "de": 1, "en": 1}})
    with pytest.raises(TaskError, match=r"1: judged on other num_queries than .*0, so there is no mean of the two"):
        averaged([seeds[0], Evidence(other, seeds[1].folder)], "all")


def test_the_interval_is_students(seeds: list[Evidence]) -> None:
    (comparison,) = compare([averaged(seeds, "all").verdict])
    column = next(c for c in comparison.columns if (c.setting, c.measure) == (MULTILINGUAL, "AP"))
    cell = comparison.headline[0][1][comparison.columns.index(column)]
    values = [each.verdict.settings[MULTILINGUAL]["AP"] for each in seeds]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert cell.spread == f"±{(high - low) / 2:.3f}".replace("0.", ".")


def test_runs_are_grouped_by_all_but_names_and_seeds(tmp_path: Path) -> None:
    runs = [
        a_run(tmp_path, f"{policy}-seed{seed}", quality, f"plan.policy={policy}", f"plan.seed={seed}")
        for policy, quality in (("mono", 0.4), ("cross", 0.6))
        for seed in range(2)
    ]
    runs.append(a_run(tmp_path, "alone", 0.5, "optimiser.steps=7"))
    own, _ = judged(runs, seeds=True)
    assert [each.verdict.model for each in own] == ["mono, 2 seeds", "cross, 2 seeds", "alone"]
    assert [len(each.verdict.of_seeds.get(MULTILINGUAL, {}).get("AP", [])) for each in own] == [2, 2, 0]
    assert len(judged(runs)[0]) == 5


def test_the_page_and_the_tables_tell_the_spread(tmp_path: Path) -> None:
    runs = [a_run(tmp_path, f"a{seed}", 0.5 + seed / 10, f"plan.seed={seed}") for seed in range(3)]
    markdown, latex = tmp_path / "t.md", tmp_path / "t.tex"
    page = make_report(runs, tmp_path / "page.html", seeds=True, markdown=markdown, latex=latex)
    assert SEEDS_NOTE in page.read_text(encoding="utf-8")
    assert re.search(r"\.\d{3}\*\*±\.\d{3}|\.\d{3}±\.\d{3}", markdown.read_text(encoding="utf-8"))
    assert r"$\pm$" in latex.read_text(encoding="utf-8")
    assert "seed" not in make_report(runs, tmp_path / "plain.html").read_text(encoding="utf-8").lower()


def test_a_mean_says_how_many_of_its_runs_were_judged(tmp_path: Path) -> None:
    runs = [a_run(tmp_path, f"a{seed}", 0.5, f"plan.seed={seed}") for seed in range(3)]
    table = queries(0.5, 9)
    whole = verdict_of("a", table, "other")
    for run in runs[:2]:
        kept(run.verdict("other"), whole, table)
    kept(runs[0].verdict("other", variant="bf16"), whole.model_copy(update={"variant": "bf16"}), table)
    own, _ = judged(runs, seeds=True)
    assert [(each.verdict.task, each.verdict.model) for each in own if each.verdict.task == "other"] == [
        ("other", "a, 2 of 3 seeds"),
        ("other", "a+bf16, 1 of 3 seeds"),
    ]
