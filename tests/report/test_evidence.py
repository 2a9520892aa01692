"""What the report makes of the evidence beside results: tests, families, bias, failures, and tables for papers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hbt_ray.report.evaluation_tables import RELATIONS, family_transfer, relation
from hbt_ray.report.failures import LanguageText, failure_lists
from hbt_ray.report.runs import make_report
from hbt_ray.report.significance import RESAMPLES, compare_with_reference, p_value
from hbt_ray.retrieval.compare import Column, compare
from hbt_ray.retrieval.evaluate import FAILURES_SCHEMA
from hbt_ray.retrieval.result import (
    CROSS_LINGUAL,
    FAILURES_FILE,
    MONOLINGUAL,
    MULTILINGUAL,
    PER_QUERY_FILE,
    EvaluationResult,
)
from hbt_ray.retrieval.score import score_bitext
from hbt_ray.retrieval.significance import compare_systems
from hbt_ray.retrieval.tasks.bitext_task import with_english
from hbt_ray.run_dir import RunDir
from tests.report.test_evaluation_page import BASELINE, LANGUAGES, TRAINED, Page, page, sample

TAGS = ["ar", "de", "en"]
Pair = tuple[EvaluationResult, EvaluationResult]
NUM_ITEMS = 40


def queries(quality: float, seed: int, measures: tuple[str, ...] = ("AP", "R@1", "R@10", "RankDistance")) -> pa.Table:
    """A table as the judge writes it; values around the quality."""
    rng = np.random.default_rng(seed)
    rows = [
        {"query_id": f"{asked}_{item}", "language": asked, "setting": setting, "passage_language": found}
        for asked in TAGS
        for found in (*TAGS, "")
        for setting in [MULTILINGUAL if not found else MONOLINGUAL if found == asked else CROSS_LINGUAL]
        for item in range(NUM_ITEMS)
    ]
    for row in rows:
        for name in measures:
            pooled = row["setting"] == MULTILINGUAL
            row[name] = (
                quality + rng.normal(0, 0.05) if name != "RankDistance" else rng.normal(9, 1) if pooled else None
            )
    return pa.Table.from_pylist(rows)


def result_of(model: str, table: pa.Table, task: str = "toy") -> EvaluationResult:
    """The macro averages of the table, as the judge takes them."""
    frame: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for row in table.to_pylist():
        of = frame.setdefault((row["setting"], row["language"], row["passage_language"]), {})
        for name in table.column_names[4:]:
            if row[name] is not None:
                of.setdefault(name, []).append(row[name])
    means = {key: {name: float(np.mean(values)) for name, values in of.items()} for key, of in frame.items()}
    settings = {}
    for setting in dict.fromkeys(key[0] for key in means):
        members = [value for key, value in means.items() if key[0] == setting]
        settings[setting] = {name: float(np.mean([member[name] for member in members])) for name in members[0]}
    return EvaluationResult(
        task=task,
        task_fingerprint="data",
        model=model,
        fingerprint=model,
        languages=TAGS,
        num_queries=dict.fromkeys(TAGS, NUM_ITEMS),
        num_documents=dict.fromkeys(TAGS, NUM_ITEMS),
        settings=settings,
        pairs={q: {p: means[MONOLINGUAL if q == p else CROSS_LINGUAL, q, p] for p in TAGS} for q in TAGS},
        pool={q: means[MULTILINGUAL, q, ""] for q in TAGS},
    )


def failure(query_id: str, precision: float, gold: str = "de", first: str = "en") -> dict[str, Any]:
    return {
        "query_id": query_id, "language": query_id[:2], "question": f"question {query_id}", "AP": precision,
        "gold_id": "g", "gold_language": gold, "gold": f"gold of {query_id}", "gold_rank": 1234,
        "first_id": "f", "first_language": first, "first": f"first of {query_id}",
    }  # fmt: skip


def kept(
    folder: Path, result: EvaluationResult, table: pa.Table | None = None, failed: Sequence[dict[str, Any]] = ()
) -> EvaluationResult:
    """The result's folder as evaluation writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    if table is not None:
        pq.write_table(table, folder / PER_QUERY_FILE)
    if failed:
        pq.write_table(pa.Table.from_pylist(failed, FAILURES_SCHEMA), folder / FAILURES_FILE)
    return EvaluationResult.load(result.save(folder))


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """A baseline, and a system that is better in everything but the rank distance, which is the same but for noise."""
    tables = queries(0.5, 1), queries(0.6, 2)
    return kept(tmp_path / "a", result_of("base", tables[0]), tables[0]), kept(
        tmp_path / "b", result_of("better", tables[1]), tables[1]
    )


def given(*own: EvaluationResult, baseline: EvaluationResult | None = None) -> dict[str, Any]:
    return {"results": own, "baseline": baseline}


def titled(html: Page, *head: str) -> list[list[list[str]]]:
    """The tables whose first row begins with these."""
    return [table[1:] for table in html.tables if table and tuple(table[0][: len(head)]) == head]


def test_marks_and_rows_are_those_of_the_comparison(tmp_path: Path, pair: Pair) -> None:
    base, better = pair
    html = page(tmp_path, **given(better, baseline=base))
    headline = html.tables[0][3]
    assert [cell.count("†") for cell in headline[1:]] == [1, 1, 1, 1, 1, 1, 0]
    assert [cell.count("†") for cell in html.tables[0][2]] == [0] * 8
    overall, by_language = titled(html, "Measure")
    assert [row[0] for row in overall] == [
        "monolingual AP", "monolingual R@1", "cross-lingual AP", "cross-lingual R@1", "multilingual AP",
        "multilingual R@10", "rank distance",
    ]  # fmt: skip
    assert len(by_language) == 7 * 3
    assert better.queries is not None
    assert base.queries is not None
    found = {
        (each.setting, each.language): each
        for each in compare_systems(better.queries, base.queries, "AP", resamples=RESAMPLES)
    }
    expected = found[CROSS_LINGUAL, ""]
    assert overall[2][1:] == [
        f"+{expected.difference:.3f}".replace("0.", ".") + "†",
        f"+{expected.low:.3f} to +{expected.high:.3f}".replace("0.", "."),
        f"+{expected.effect:.2f}",
        p_value(expected.p),
        p_value(expected.p_holm),
        str(NUM_ITEMS),
    ]
    german = next(row for row in by_language if row[:2] == ["multilingual AP", "de German"])
    assert german[2] == f"+{found[MULTILINGUAL, 'de'].difference:.3f}".replace("0.", ".") + "†"
    marks = [value for tag, name, value in html.attributes if (tag, name) == ("sup", "title")]
    assert len(marks) == 6 + 6 + 6 * 3 + 2 * 3, "headline, both tables of differences, AP and R@10 by language"
    assert all(re.fullmatch(r"p \(Holm\) (<|=) \.\d{3}, 95 % interval \+\.\d{3} to \+\.\d{3}", mark) for mark in marks)


def test_without_a_baseline_the_first_system_is_the_reference(tmp_path: Path, pair: Pair) -> None:
    html = page(tmp_path, **given(*pair))
    assert html.text("h3")[0] == "toy: differences to base"
    assert len(titled(html, "Measure")[0]) == 7


def test_what_cannot_be_tested_is_said_in_a_line(tmp_path: Path, pair: Pair) -> None:
    base, better = pair
    notes = page(
        tmp_path, results=[result_of("better", queries(0.6, 2))], baseline=result_of("base", queries(0.5, 1))
    ).text("p", "note")
    assert notes[:1] == ["Not tested: There are no per-query results of two systems beside the results."]
    assert "Differences" not in page(tmp_path, **given(better)).text("h2")
    old = kept(tmp_path / "old", result_of("old", queries(0.7, 3)))
    third = queries(0.5, 4)
    other = kept(tmp_path / "other", result_of("other", third), third.slice(1))
    html = page(tmp_path, **given(better, old, other, baseline=base))
    notes = html.text("p", "note")
    assert notes[0] == "Not tested: old: no per-query results lie beside its result."
    assert notes[1].startswith("Not tested: other: the two systems do not have the same queries")
    assert {row[0] for row in titled(html, "System", "Measure")[0]} == {"better"}


def test_relations_of_languages() -> None:
    pairs = [("de", "en"), ("de", "ru"), ("de", "tr"), ("de", "zh"), ("hi", "en"), ("ar", "fa"), ("qaa", "qab")]
    assert [RELATIONS.index(relation(*pair)) for pair in pairs] == [0, 1, 2, 3, 1, 2, 3]


def test_families_by_hand() -> None:
    found = family_transfer(compare([TRAINED], BASELINE)[0])
    assert found is not None
    sizes = [(row[0].text, row[1].text) for row in found.table.rows]
    assert sizes == list(zip(RELATIONS, ("6", "24", "14", "66"), strict=True))
    latin = [("de", "en"), ("de", "es"), ("en", "es")]
    for result, cell in zip((BASELINE, TRAINED), found.table.rows[0][2:], strict=True):
        mean = np.mean([result.pairs[q][p]["AP"] for pair in latin for q, p in (pair, pair[::-1])])
        assert cell.sort == round(float(mean), 3)
    assert found.families[0] == ("Indo-European", ("de", "el", "en", "es", "hi", "ru"))
    assert found.maps is not None
    names = [cell.text for cell in found.maps.maps[1].headings]
    rows = {row[0].text: row for row in found.maps.maps[1].rows}
    assert names[1] == "Indo-European"
    assert rows["Turkic"][names.index("Turkic")].text == "–", "one language makes no cross-lingual pair"
    turkish = np.mean([TRAINED.pairs["tr"][p]["AP"] for p in found.families[0][1]])
    assert rows["Turkic"][1].text == f"{turkish:.3f}".lstrip("0")


def test_one_relation_has_nothing_to_compare() -> None:
    assert family_transfer(compare([sample("a", 0.5, 9, languages=["de", "en"])])[0]) is None
    assert family_transfer(compare([TRAINED.model_copy(update={"settings": {}, "pairs": {}, "pool": {}})])[0]) is None


def leaning(model: str, worst: float, own: float) -> EvaluationResult:
    """With the measures and shares of a judge that has seen the first documents."""
    more = {"MaxR": worst, "OwnLanguageFirst": 0.4, "ShareDistance@10": 1 - own, "MRC@10": -0.25}
    share = {q: {p: own if p == q else (1 - own) / 10 for p in LANGUAGES} for q in LANGUAGES}
    settings = TRAINED.settings | {MULTILINGUAL: TRAINED.settings[MULTILINGUAL] | more}
    pool = {tag: measures | more | {"MaxR": worst + i} for i, (tag, measures) in enumerate(TRAINED.pool.items())}
    fields = {"model": model, "fingerprint": model, "settings": settings, "pool": pool, "language_share": share}
    return TRAINED.model_copy(update=fields)


def test_language_bias_is_shown_where_it_was_measured(tmp_path: Path) -> None:
    html = page(tmp_path, results=[leaning("fair", 90.4, 0.1)], baseline=leaning("biased", 2310, 0.95))
    means = titled(html, "System", "worst rank lower is better")[0]
    assert means == [
        ["biased baseline", "2,310", ".400", ".050", "−.250"],
        ["fair", "90 −2,220", ".400 ±.000", ".900 +.850", "−.250 ±.000"],
    ]
    best = [cell for cell in html.text("td", "number best") if cell in ("90 −2,220", ".050", ".400 ±.000")]
    assert best[:2] == [".050", "90 −2,220"]
    assert ".400 ±.000" not in best, "own language first has no good end, so none is marked"
    maps = [table for table in html.tables if table[0] == ["", *LANGUAGES]]
    assert [table[1][1:3] for table in maps] == [[".950", ".005"], [".100", ".090"]]
    assert {"Language bias", "Families and scripts"} <= set(html.text("h2"))
    summary = next(text for text in html.text("p", "summary") if text.startswith("Share of the first ten"))
    assert summary.endswith("from .088 (Arabic) to .094 (Chinese).")
    german = next(row for table in html.tables for row in table if row[0].startswith("de ") and "2,311" in row)
    assert german[1:] == ["2,311", "91", ".400", ".400", ".050", ".900", "−.250", "−.250"]
    before = page(tmp_path, results=[TRAINED], baseline=BASELINE)
    assert "Language bias" not in before.text("h2")


def test_columns_of_bias_know_their_ends_and_units() -> None:
    worst, own, distance = (Column(MULTILINGUAL, name) for name in ("MaxR", "OwnLanguageFirst", "ShareDistance@10"))
    assert [column.lower_is_better for column in (worst, own, distance)] == [True, False, True]
    assert [column.has_better for column in (worst, own, distance)] == [True, False, True]
    assert [column.text(column.round(12.3456)) for column in (worst, distance)] == ["12", "12.346"]
    assert [worst.name, own.name] == ["worst rank", "own language first"]
    assert [worst.signed(value) for value in (3.0, -1200.0, 0.0, None)] == ["+3", "−1,200", "±0", "–"]


def test_failures_are_in_their_own_words_and_direction(tmp_path: Path) -> None:
    rows = [failure("ar_7", 0.1, "ar", "en"), failure("de_9", 0.2, "de", "ur")]
    html = page(tmp_path, **given(kept(tmp_path / "a", result_of("m", queries(0.5, 1)), failed=rows)))
    words = [text for style in ("words question", "words ") for text in html.text("p", style)]
    assert words == [
        "question ar_7", "question de_9", "first of ar_7", "gold of ar_7", "first of de_9", "gold of de_9",
    ]  # fmt: skip
    of_words = [value for tag, name, value in html.attributes if tag == "p" and name in ("lang", "dir")]
    assert of_words == ["ar", "rtl", "en", "ltr", "ar", "rtl", "de", "ltr", "ur", "rtl", "de", "ltr"]
    assert "right Arabic, the best of the right ones, at rank 1,234" in html.text("p", "role")
    assert [LanguageText("", tag).direction for tag in ("he", "fa", "pa-PK", "pa", "zh")] == ["rtl"] * 3 + ["ltr"] * 2


def test_failures_are_ordered_by_what_was_lost(tmp_path: Path) -> None:
    table = queries(0.5, 1)
    base = kept(tmp_path / "base", result_of("base", table), table)
    before = {row["query_id"]: row["AP"] for row in table.to_pylist() if row["setting"] == MULTILINGUAL}
    lost = {"de_1": 0.1, "de_2": 0.4, "en_2": 0.3, "ar_3": 0.2, "ar_4": -0.2}
    rows = [failure(query, before[query] - loss) for query, loss in lost.items()]
    own = kept(tmp_path / "own", result_of("own", queries(0.4, 2)), failed=sorted(rows, key=lambda row: row["AP"]))
    compared = failure_lists(compare([own], base)[0])[0]
    asked = [each.question.text.removeprefix("question ") for each in compared.shown]
    assert asked == ["de_2", "ar_3", "de_1"], "one of the translations of 2, and no gain"
    assert (compared.is_loss, compared.num_recorded) == (True, 5)
    assert compared.shown[0].baseline_precision == f"{before['de_2']:.3f}".lstrip("0")


def test_without_a_baseline_the_worst_of_each_language_come_first(tmp_path: Path) -> None:
    worst = ["de_1", "de_2", "de_3", "ar_4", "ar_2", "en_5"]
    rows = [failure(query, 0.1 + i / 100) for i, query in enumerate(worst)]
    own = kept(tmp_path, result_of("own", queries(0.4, 2)), failed=rows)
    alone = failure_lists(compare([own])[0])[0]
    assert not alone.is_loss
    asked = [each.question.text.removeprefix("question ") for each in alone.shown]
    assert asked == ["de_1", "ar_4", "en_5", "de_2", "de_3"], "ar_2 is de_2 in another language"
    assert alone.shown[0].baseline_precision == ""


def test_tables_for_papers_are_escaped_and_whole(tmp_path: Path, pair: Pair) -> None:
    base, better = pair
    name = r"50%_of|a\b{c}~^&#$*<x>"
    renamed = better.model_copy(update={"model": name})
    files = {"markdown": tmp_path / "t.md", "latex": tmp_path / "deep" / "t.tex"}
    page(tmp_path, **given(renamed, baseline=base), **files)
    lines = files["markdown"].read_text(encoding="utf-8").splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    assert [len(row) for row in rows] == [8] * 4
    assert rows[3][0].strip() == r"50%\_of\|a\\b\{c\}\~\^&amp;\#\$\*&lt;x&gt;"
    assert re.sub(r"\\(.)", r"\1", unescape(rows[3][0].strip())) == name
    value = f"{better.settings[MONOLINGUAL]['AP']:.3f}".lstrip("0")
    assert rows[3][1].strip() == f"**{value}**†"
    assert lines[-1].startswith("† differs from base")

    text = files["latex"].read_text(encoding="utf-8")
    body = text.split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
    assert [len(re.findall(r"(?<!\\)&", row)) for row in body] == [7, 7]
    assert all(row.endswith(r" \\") for row in body)
    assert body[1].startswith(
        r"50\%\_of$|$a\textbackslash{}b\{c\}\textasciitilde{}\textasciicircum{}\&\#\$*$<$x$>$ & "
        rf"\textbf{{{value}}}$^\dagger$ & "
    )
    assert (
        r"\multicolumn{2}{c}{Monolingual} & \multicolumn{2}{c}{Cross-lingual} & \multicolumn{3}{c}{Multilingual}"
        in text
    )
    assert r"\cmidrule(lr){2-3}\cmidrule(lr){4-5}\cmidrule(lr){6-8}" in text
    assert r"Rank distance $\downarrow$" in text
    assert text.isascii(), "a name in Latin letters leaves nothing that pdfLaTeX would refuse"
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_tables_without_evidence_have_no_marks(tmp_path: Path) -> None:
    files = {"markdown": tmp_path / "t.md", "latex": tmp_path / "t.tex"}
    page(tmp_path, results=[TRAINED, sample("b", 0.6, 70, "mlqa-r", ["de", "en"])], baseline=BASELINE, **files)
    text = files["markdown"].read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("**")] == ["**xquad-r**", "**mlqa-r**"]
    assert "†" not in text
    assert files["latex"].read_text(encoding="utf-8").count(r"\begin{table}") == 2


def run_of(folder: Path, *judged: tuple[EvaluationResult, pa.Table | None], base: pa.Table | None = None) -> RunDir:
    run = RunDir(folder)
    for result, table in judged:
        kept(run.result(result.task), result, table)
    if base is not None:
        kept(run.result("toy", of_base=True), result_of("untrained", base), base)
    return run


def test_runs_with_several_tasks_bitexts_and_old_results(tmp_path: Path) -> None:
    task = with_english("tatoeba", {tag: (["a", "b"], ["A", "B"]) for tag in ("de", "tr", "zh")}, both_ways=False)
    rng = np.random.default_rng(0)
    bitexts = []
    for model in ("one", "two"):
        table, card = score_bitext(task, rng.normal(size=(task.sentences.num_rows, 4)).astype(np.float32))
        bitexts.append(
            (EvaluationResult(model=model, fingerprint=model, headline=list(task.measures), **card.fields()), table)
        )
    tables = queries(0.6, 2), queries(0.55, 3)
    one = run_of(
        tmp_path / "one", (result_of("one", tables[0]), tables[0]), bitexts[0], (TRAINED, None), base=queries(0.5, 1)
    )
    two = run_of(tmp_path / "two", (result_of("two", tables[1]), tables[1]), bitexts[1])
    files = {"markdown": tmp_path / "t.md", "latex": tmp_path / "t.tex"}
    for runs, systems in (([one], 1), ([one, two], 2)):
        html = Page(make_report(runs, tmp_path / "r.html", **files).read_text(encoding="utf-8"))
        assert len(titled(html, "Measure") + titled(html, "System", "Measure")) >= 2
        assert {"toy", "tatoeba", "xquad-r"} <= set(html.text("b"))
        assert files["latex"].read_text(encoding="utf-8").count(r"\begin{tabular}") == 3
        assert files["markdown"].read_text(encoding="utf-8").count("| untrained |") == 1
        titles = html.text("h3")
        assert "toy: differences to untrained" in titles
        assert ("tatoeba: differences to one" in titles) == (systems == 2)
    relations = [table for table in html.tables if table[0][0] == "Question and passage are of the"]
    assert len(relations) == 3, "a bitext has pairs of languages, and so families"
    assert compare_with_reference(compare([bitexts[0][0]])[0]) is None
