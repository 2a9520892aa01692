"""Runs that differ by their seeds alone, as one system: means of measures and of queries, and intervals."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from hbt_ray.cli.evaluate import results_as_saved
from hbt_ray.errors import TaskError
from hbt_ray.report.runs import load_results, make_report
from hbt_ray.retrieval.compare import SEEDS_NOTE, compare
from hbt_ray.retrieval.result import MULTILINGUAL, PER_QUERY_FILE, EvaluationResult, mean_over_seeds
from hbt_ray.retrieval.significance import compare_systems, with_task_fingerprint
from hbt_ray.run_dir import RunDir
from tests.report.test_evidence import kept, queries, result_of
from tests.small_data import small_run

QUALITIES = (0.5, 0.52, 0.57)


@pytest.fixture
def seeds(tmp_path: Path) -> list[EvaluationResult]:
    tables = [queries(quality, number) for number, quality in enumerate(QUALITIES)]
    return [kept(tmp_path / str(n), result_of(f"r{n}", table), table) for n, table in enumerate(tables)]


def a_run(folder: Path, name: str, quality: float, *overrides: str, task: str = "toy") -> RunDir:
    config = small_run(folder, f"name={name}", *overrides)
    run = config.run
    table = queries(quality, hash(name) % 1000)
    kept(run.result(task), result_of(name, table, task), table)
    run.config.write_text(config.to_yaml())
    return run


def test_every_mean_is_that_of_the_seeds(seeds: list[EvaluationResult]) -> None:
    mean = mean_over_seeds(seeds, "all")
    for setting, measures in mean.settings.items():
        for name, value in measures.items():
            values = [each.settings[setting][name] for each in seeds]
            assert value == pytest.approx(np.mean(values))
            assert mean.seed_values[setting][name] == values
    assert mean.pairs["de"]["en"]["AP"] == pytest.approx(np.mean([s.pairs["de"]["en"]["AP"] for s in seeds]))
    assert (mean.model, mean.num_queries) == ("all", seeds[0].num_queries)


def test_macro_averages_of_the_mean_queries_are_those_of_the_mean_result(seeds: list[EvaluationResult]) -> None:
    """Whatever order the rows of a seed have."""
    table = pq.read_table(seeds[1].folder / PER_QUERY_FILE)
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    pq.write_table(shuffled, seeds[1].folder / PER_QUERY_FILE)
    seeds[1].save(seeds[1].folder)
    mean = mean_over_seeds(seeds, "all")
    assert mean.queries is not None
    assert len(mean.queries) == len(table)
    again = result_of("all", mean.queries.select(table.column_names))
    for setting, measures in again.settings.items():
        assert measures == pytest.approx(mean.settings[setting])


def test_a_seed_without_queries_leaves_the_mean_without(seeds: list[EvaluationResult]) -> None:
    (seeds[2].folder / PER_QUERY_FILE).unlink()
    seeds[2].save(seeds[2].folder)
    assert (
        mean_over_seeds([EvaluationResult.load(each.folder / "result.json") for each in seeds], "all").queries is None
    )


def test_other_questions_have_no_mean(seeds: list[EvaluationResult]) -> None:
    other = EvaluationResult(**{**seeds[1].model_dump(), "num_queries": {"ar": 1, "de": 1, "en": 1}})
    with pytest.raises(TaskError) as error:
        mean_over_seeds([seeds[0], other], "all")
    assert error.value.code == "OTHER_TASK"


def on_other_data(evidence: EvaluationResult) -> EvaluationResult:
    other = evidence.model_copy(update={"task_fingerprint": "other"})
    table = evidence.queries
    assert table is not None
    return kept(evidence.folder, other, with_task_fingerprint(table, "other"))


def test_results_of_one_task_on_other_data_have_no_mean_and_no_test(seeds: list[EvaluationResult]) -> None:
    for each in seeds:
        assert each.queries is not None
        kept(each.folder, each, with_task_fingerprint(each.queries, each.task_fingerprint))
    first, other = EvaluationResult.load(seeds[0].folder / "result.json"), on_other_data(seeds[1])
    for refused in (
        lambda: mean_over_seeds([first, other], "all"),
        lambda: compare_systems(first.queries, other.queries, "AP"),
        lambda: compare([first], other),
    ):
        with pytest.raises(TaskError) as caught:
            refused()
        assert caught.value.code == "OTHER_TASK"
    mean = mean_over_seeds([first, EvaluationResult.load(seeds[2].folder / "result.json")], "all")
    assert compare_systems(mean.queries, first.queries, "AP"), "a mean says what it was measured on"


def test_a_report_sets_runs_and_baselines_on_other_data_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs = [a_run(tmp_path, f"a-seed{seed}", 0.5, f"plan.seed={seed}") for seed in range(3)]
    on_other_data(EvaluationResult.load(runs[2].result("toy") / "result.json"))
    table = queries(0.3, 1)
    base = kept(runs[0].result("toy", of_base=True), result_of("untrained", table, "toy"), table)
    own, baselines = load_results(runs, seeds=True)
    assert [each.model for each in own] == ["a, 2 of 3 seeds", "a, 1 of 3 seeds"]
    comparisons = compare(own, baselines)
    assert [(c.task, len(c.systems)) for c in comparisons] == [("toy (data data)", 2), ("toy (data other)", 1)]
    assert "toy (data other)" in make_report(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    kept(base.folder, base.model_copy(update={"task_fingerprint": "third"}), table)
    with caplog.at_level("WARNING"):
        assert load_results(runs)[1] == []
    assert "evaluated on other queries, documents or judgements" in caplog.text


def test_a_variant_is_shown_beside_the_saved_model_on_the_same_data_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = a_run(tmp_path, "a", 0.5)
    saved = EvaluationResult.load(run.result("toy") / "result.json")
    variant = saved.model_copy(update={"variant": "bf16"})
    assert results_as_saved(run, [variant]) == [saved]
    on_other_data(saved)
    with caplog.at_level("WARNING"):
        assert results_as_saved(run, [variant]) == []
    assert "queries, documents or judgements" in caplog.text


def test_the_interval_is_students(seeds: list[EvaluationResult]) -> None:
    (comparison,) = compare([mean_over_seeds(seeds, "all")])
    column = next(c for c in comparison.columns if (c.setting, c.measure) == (MULTILINGUAL, "AP"))
    cell = comparison.headline[0][1][comparison.columns.index(column)]
    values = [each.settings[MULTILINGUAL]["AP"] for each in seeds]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert cell.spread == f"±{(high - low) / 2:.3f}".replace("0.", ".")


def test_runs_are_grouped_by_all_but_names_and_seeds(tmp_path: Path) -> None:
    runs = [
        a_run(tmp_path, f"{policy}-seed{seed}", quality, f"plan.policy={policy}", f"plan.seed={seed}")
        for policy, quality in (("mono", 0.4), ("cross", 0.6))
        for seed in range(2)
    ]
    runs.append(a_run(tmp_path, "alone", 0.5, "optimiser.steps=7"))
    own, _ = load_results(runs, seeds=True)
    assert [each.model for each in own] == ["mono, 2 seeds", "cross, 2 seeds", "alone"]
    assert [len(each.seed_values.get(MULTILINGUAL, {}).get("AP", [])) for each in own] == [2, 2, 0]
    assert len(load_results(runs)[0]) == 5


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
    whole = result_of("a", table, "other")
    for run in runs[:2]:
        kept(run.result("other"), whole, table)
    kept(runs[0].result("other", variant="bf16"), whole.model_copy(update={"variant": "bf16"}), table)
    own, _ = load_results(runs, seeds=True)
    assert [(each.task, each.model) for each in own if each.task == "other"] == [
        ("other", "a, 2 of 3 seeds"),
        ("other", "a+bf16, 1 of 3 seeds"),
    ]
