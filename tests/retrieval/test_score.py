from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ir_measures
import numpy as np
import pyarrow as pa
import pytest

from hbt_ray.errors import TaskError
from hbt_ray.retrieval.measures import RANK_DISTANCE
from hbt_ray.retrieval.result import EvaluationResult
from hbt_ray.retrieval.score import DEFAULT_MEASURES, POOL_MEASURES, Scorecard, score_rankings, top_documents
from hbt_ray.retrieval.search.ranking import Hits
from hbt_ray.retrieval.search.sharded_index import SearchConfig, ShardedIndex
from hbt_ray.retrieval.tasks import Task, read_lareqa
from hbt_ray.retrieval.trec import write_qrels, write_run

ALL_MEASURES = (*DEFAULT_MEASURES, RANK_DISTANCE)
ANGLES = {"de_1": 0, "de_2": 60, "en_1": 30, "en_2": 80, "fr_1": 45}


def by_angle(*degrees: float) -> np.ndarray:
    return np.array([[np.cos(np.radians(d)), np.sin(np.radians(d))] for d in degrees], dtype=np.float32)


@pytest.fixture
def uneven() -> Task:
    """Question `a` in German and English with an answer in each, `b` in English alone with two, French never asked."""
    return Task.from_rows(
        "uneven",
        documents=[(doc_id, doc_id[:2], doc_id) for doc_id in ANGLES],
        queries=[("de_a", "de", "a"), ("en_a", "en", "a"), ("en_b", "en", "b")],
        qrels=[(q, d) for q in ("de_a", "en_a") for d in ("de_1", "en_1")] + [("en_b", "en_1"), ("en_b", "en_2")],
    )


def judged(task: Task, queries: np.ndarray, documents: np.ndarray) -> tuple[pa.Table, Scorecard]:
    with ShardedIndex.of_task(task, documents, SearchConfig(num_actors=2)) as index:
        return score_rankings(task, queries, index, top_documents(task, queries, index, 10).documents)


def test_settings_pairs_and_means_by_hand(ray_session: None, uneven: Task) -> None:
    # From 50°: fr 45, de_2 60, en_1 30, en_2 80, de_1 0. From 10°: de_1, en_1, fr, de_2, en_2. From 0°: the same.
    table, card = judged(uneven, by_angle(50, 10, 0), by_angle(*ANGLES.values()))
    rows = {(r["query_id"], r["setting"], r["passage_language"]): r for r in table.to_pylist()}
    assert {key: row["AP"] for key, row in rows.items()} == pytest.approx(
        {
            ("de_a", "monolingual", "de"): 1 / 2,
            ("de_a", "cross-lingual", "en"): 1,
            ("en_a", "cross-lingual", "de"): 1,
            ("en_a", "monolingual", "en"): 1,
            ("en_b", "monolingual", "en"): 1,
            ("de_a", "multilingual", ""): (1 / 3 + 2 / 5) / 2,
            ("en_a", "multilingual", ""): 1,
            ("en_b", "multilingual", ""): (1 / 2 + 2 / 5) / 2,
        }
    )
    distances = {key[0]: row["RankDistance"] for key, row in rows.items() if key[1] == "multilingual"}
    assert distances == {"de_a": 2, "en_a": 1, "en_b": 3}
    outside = [row[name] for key, row in rows.items() if key[1] != "multilingual" for name in POOL_MEASURES]
    assert outside == [None] * 5 * len(POOL_MEASURES)
    pooled = {key[0]: [row[name] for name in POOL_MEASURES] for key, row in rows.items() if key[1] == "multilingual"}
    # The five documents stand at 5 2 3 4 1 from 50° and at 1 4 2 5 3 from 10°: Spearman's -0.3.
    correlation = pytest.approx(-0.3)
    assert pooled == {"de_a": [2, 5, 0, correlation], "en_a": [1, 2, 0, correlation], "en_b": [3, 5, None, None]}
    assert card.pool["de"]["MaxR"] == 5
    assert card.pool["en"]["OwnLanguageFirst"] == 0, "the mean of those that it is defined for"
    assert card.settings["multilingual"]["MaxR"] == (5 + (2 + 5) / 2) / 2
    # The top 10 are the whole pool, and so are its shares.
    assert card.language_share == {tag: pytest.approx({"de": 0.4, "en": 0.4, "fr": 0.2}) for tag in ("de", "en")}
    assert card.settings["multilingual"]["ShareDistance@10"] == pytest.approx(0)
    assert [row["language"] == key[0][:2] for key, row in rows.items()] == [True] * 8

    assert {x: {y: m["AP"] for y, m in row.items()} for x, row in card.pairs.items()} == {
        "de": {"de": 0.5, "en": 1}, "en": {"de": 1, "en": 1},
    }  # fmt: skip
    pool_en = (1 + (1 / 2 + 2 / 5) / 2) / 2
    assert card.pool["en"]["AP"] == pytest.approx(pool_en)
    assert {setting: measures["AP"] for setting, measures in card.settings.items()} == pytest.approx(
        {"monolingual": 0.75, "cross-lingual": 1, "multilingual": ((1 / 3 + 2 / 5) / 2 + pool_en) / 2}
    )
    assert card.settings["multilingual"]["RankDistance"] == (2 + (1 + 3) / 2) / 2
    assert card.settings["monolingual"].keys() == set(DEFAULT_MEASURES)
    assert card.languages == ["de", "en", "fr"]
    assert (card.num_queries, card.num_documents) == ({"de": 1, "en": 2}, {"de": 2, "en": 2, "fr": 1})


def test_the_scorecard_fills_a_result(ray_session: None, uneven: Task, tmp_path: Path) -> None:
    _, card = judged(uneven, by_angle(50, 10, 0), by_angle(*ANGLES.values()))
    result = EvaluationResult(model="m", fingerprint="f", **card.fields())
    result.save(tmp_path)
    assert EvaluationResult.load(tmp_path / "result.json") == result
    assert result.pairs == card.pairs


def test_settings_that_a_task_does_not_have_are_left_out(ray_session: None) -> None:
    documents, qrels = [("en_1", "en", "1"), ("en_2", "en", "2")], [("de_a", "en_1")]
    cross = Task.from_rows("cross", documents, [("de_a", "de", "a")], qrels)
    assert judged(cross, by_angle(0), by_angle(0, 90))[1].settings.keys() == {"cross-lingual", "multilingual"}
    mono = Task.from_rows("mono", documents, [("de_a", "en", "a")], qrels)
    card = judged(mono, by_angle(0), by_angle(90, 0))[1]
    assert card.settings.keys() == {"monolingual", "multilingual"}
    assert card.pool["en"] == {**card.pairs["en"]["en"], "RankDistance": 0.0}


def test_measures_of_the_task_stand_beside_the_judges_own(ray_session: None, uneven: Task) -> None:
    task = Task("own", uneven.documents, uneven.queries, uneven.qrels, ("AP@1", "RR", "AP", "RankDistance"))
    table, card = judged(task, by_angle(50, 10, 0), by_angle(*ANGLES.values()))
    plain, _ = judged(uneven, by_angle(50, 10, 0), by_angle(*ANGLES.values()))
    assert table.column_names == [*plain.column_names[: -len(POOL_MEASURES)], "AP@1", "RR", *POOL_MEASURES]
    assert table.select(plain.column_names).equals(plain)
    assert card.settings["cross-lingual"].keys() == {*DEFAULT_MEASURES, "AP@1", "RR"}
    assert card.settings["multilingual"].keys() == {*DEFAULT_MEASURES, "AP@1", "RR", *POOL_MEASURES, "ShareDistance@10"}
    assert card.pool["de"]["RR"] == pytest.approx(1 / 3)


def test_vectors_of_another_task_are_refused(ray_session: None, uneven: Task) -> None:
    documents = by_angle(*ANGLES.values())
    with ShardedIndex.of_task(uneven, documents) as index:
        with pytest.raises(TaskError) as error:
            score_rankings(uneven, by_angle(1, 2), index)
        assert error.value.code == "OTHER_TASK"
        other = Task.from_rows("other", [("x", "de", "x")], [("q", "de", "q")], [("q", "x")])
        with pytest.raises(TaskError) as error:
            score_rankings(other, by_angle(1), index)
        assert error.value.code == "OTHER_TASK"


def quantised(num: int, rng: np.random.Generator) -> np.ndarray:
    """Dot products of these are exact in float32 however they are added, and tie very often."""
    return rng.integers(-3, 4, (num, 16)).astype(np.float32) / 4


def brute_force(task: Task, queries: np.ndarray, documents: np.ndarray) -> dict[tuple[str, str], dict[str, float]]:
    """(query, passage language or empty) → measures, each by its textbook definition on a fully sorted list."""
    doc_ids, languages = task.documents["doc_id"].to_pylist(), np.array(task.documents["language"].to_pylist())
    by_id = np.array(sorted(range(len(doc_ids)), key=doc_ids.__getitem__, reverse=True))
    row_of = {doc_id: row for row, doc_id in enumerate(doc_ids)}
    relevant: dict[str, list[int]] = {}
    for pair in task.qrels.to_pylist():
        relevant.setdefault(pair["query_id"], []).append(row_of[pair["doc_id"]])
    found = {}
    for query_id, own in zip(task.queries["query_id"].to_pylist(), queries @ documents.T, strict=True):
        ranking = by_id[np.argsort(-own[by_id], kind="stable")]
        for language in ("", *task.languages):
            kept = ranking[languages[ranking] == language] if language else ranking
            hits = np.flatnonzero(np.isin(kept, relevant[query_id]))
            found[query_id, language] = textbook((hits + 1).tolist())
    return found


def textbook(ranks: list[int]) -> dict[str, float]:
    ideal = sum(1 / np.log2(place + 1) for place in range(1, min(10, len(ranks)) + 1))
    return {
        "AP": sum(i / rank for i, rank in enumerate(ranks, 1)) / len(ranks),
        "R@1": sum(rank <= 1 for rank in ranks) / len(ranks),
        "R@10": sum(rank <= 10 for rank in ranks) / len(ranks),
        "nDCG@10": sum(1 / np.log2(rank + 1) for rank in ranks if rank <= 10) / ideal,
        "RankDistance": ranks[-1] - ranks[0],
    }


def test_three_languages_of_xquad_r_equal_brute_force(ray_session: None, shared_data: Path) -> None:
    task = read_lareqa(shared_data / "eval/xquad-r", "xquad-r", languages=["de", "th", "zh"])
    rng = np.random.default_rng(0)
    documents = quantised(task.documents.num_rows, rng)
    # Questions near their answers, so that ranks are neither all perfect nor all random.
    queries = documents[task.relevant].sum(axis=1) + quantised(task.queries.num_rows, rng)
    table, card = judged(task, queries, documents)
    expected = brute_force(task, queries, documents)
    assert table.num_rows == 3 * 1190 * 4
    for row in table.to_pylist():
        wanted = expected[row["query_id"], row["passage_language"]]
        assert all(
            row[name] == pytest.approx(wanted[name], abs=1e-12)
            for name in (DEFAULT_MEASURES if row["passage_language"] else ALL_MEASURES)
        ), row
    assert 0.1 < card.settings["multilingual"]["AP"] < 0.9
    for asked in task.languages:
        of = [value for (query_id, language), value in expected.items() if query_id[:2] == asked and not language]
        means = {name: card.pool[asked][name] for name in ALL_MEASURES}
        assert means == pytest.approx({name: np.mean([v[name] for v in of]) for name in ALL_MEASURES})
        for language in task.languages:
            of = [v for (query_id, found), v in expected.items() if query_id[:2] == asked and found == language]
            assert card.pairs[asked][language]["AP"] == pytest.approx(np.mean([v["AP"] for v in of]))


def test_trec_files_give_our_measures(ray_session: None, shared_data: Path, tmp_path: Path) -> None:
    task = read_lareqa(shared_data / "eval/xquad-r", "xquad-r", languages=["en", "th"])
    task = Task(task.name, task.documents, task.queries.slice(1100, 120), select(task, 1100, 120))
    rng = np.random.default_rng(0)
    documents = quantised(task.documents.num_rows, rng)
    queries = documents[task.relevant].sum(axis=1) + quantised(task.queries.num_rows, rng)
    with ShardedIndex.of_task(task, documents, SearchConfig(num_actors=2)) as index:
        table, _ = score_rankings(task, queries, index)
        hits = index.search(queries, len(index.ids))
        run = write_run(tmp_path / "run.trec", task.queries["query_id"].to_pylist(), index.ids, hits, tag="ours")
    qrels = write_qrels(tmp_path / "qrels.trec", task)
    assert len(set(hits.scores[0].tolist())) < len(index.ids) / 2, "there are too few ties to test anything"
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["qrels.trec", "run.trec"]
    first = run.read_text(encoding="utf-8").splitlines()[0].split(" ")
    assert first[:2] + first[3:4] + first[5:] == [task.queries["query_id"][0].as_py(), "Q0", "1", "ours"]
    theirs = {
        (metric.query_id, str(metric.measure)): metric.value
        for metric in ir_measures.iter_calc(
            [ir_measures.parse_measure(name) for name in DEFAULT_MEASURES],
            ir_measures.read_trec_qrels(str(qrels)),
            ir_measures.read_trec_run(str(run)),
        )
    }
    ours = {
        (row["query_id"], name): row[name]
        for row in table.to_pylist() if row["setting"] == "multilingual" for name in DEFAULT_MEASURES
    }  # fmt: skip
    assert len(ours) == 120 * len(DEFAULT_MEASURES)
    assert ours == pytest.approx(theirs, abs=1e-9)


def odd_task(num: int = 60) -> Task:
    """Three languages; each second query is itself a document; grades from 1 to 3; answers that the corpus lacks."""
    rng = np.random.default_rng(5)
    tags = ["de", "en", "fr"]
    documents = [(f"d{n}", tags[n % 3], f"text {n}") for n in range(num)]
    queries = [(f"d{n}" if n % 2 else f"q{n}", tags[n % 3], f"query {n}") for n in range(num // 2)]
    qrels = []
    for query_id, *_ in queries:
        others = [doc_id for doc_id, *_ in documents if doc_id != query_id]
        qrels += [(query_id, str(doc_id), int(rng.integers(0, 4))) for doc_id in rng.choice(others, 5, replace=False)]
        qrels += [(query_id, f"gone {query_id}".replace(" ", "-"), 2)] if rng.random() < 0.3 else []
    return Task.from_rows("odd", documents, queries, [row for row in qrels if row[2] or rng.random() < 0.5])


def near_their_own(task: Task, documents: np.ndarray) -> np.ndarray:
    """Query vectors, those of queries that are documents being the documents' own."""
    queries = quantised(task.queries.num_rows, np.random.default_rng(1))
    own = task.own_documents >= 0
    queries[own] = documents[task.own_documents[own]]
    return queries


def test_grades_left_out_and_missing_documents_give_the_values_of_trec_eval(ray_session: None, tmp_path: Path) -> None:
    task = odd_task()
    assert min(task.num_identical_ids, task.num_missing, int((task.grades > 1).sum())) > 3
    documents = quantised(task.documents.num_rows, np.random.default_rng(0))
    queries = near_their_own(task, documents)
    ours = []
    for config in (SearchConfig(num_actors=1), SearchConfig(num_actors=2, max_rows=7, chunk_size=11)):
        with ShardedIndex.of_task(task, documents, config) as index:
            hits = top_documents(task, queries, index, len(index.ids))
            table, card = score_rankings(task, queries, index, hits.documents)
        assert not (hits.documents == task.own_documents[:, None])[task.own_documents >= 0].any()
        ours.append((table, card))
    assert ours[0][0].equals(ours[1][0]), "however the corpus is cut"
    assert ours[0][1] == ours[1][1]
    table, card = ours[0]
    run = write_run(tmp_path / "run.trec", task.queries["query_id"].to_pylist(), index.ids, hits, tag="ours")
    theirs = {
        (metric.query_id, str(metric.measure)): metric.value
        for metric in ir_measures.iter_calc(
            [ir_measures.parse_measure(name) for name in DEFAULT_MEASURES],
            ir_measures.read_trec_qrels(str(write_qrels(tmp_path / "qrels.trec", task))),
            ir_measures.read_trec_run(str(run)),
        )
    }
    pooled = [row for row in table.to_pylist() if row["setting"] == "multilingual"]
    assert {(row["query_id"], name): row[name] for row in pooled for name in DEFAULT_MEASURES} == pytest.approx(
        theirs, abs=1e-9
    )
    assert (card.num_identical_ids, card.num_missing) == (task.num_identical_ids, task.num_missing)
    assert card.task_fingerprint == task.fingerprint


def test_a_language_has_the_ranks_of_its_documents_without_the_one_left_out(ray_session: None) -> None:
    task = odd_task()
    documents = quantised(task.documents.num_rows, np.random.default_rng(0))
    queries = near_their_own(task, documents)
    table, _ = judged(task, queries, documents)
    ids, tags = task.documents["doc_id"].to_pylist(), task.documents["language"].to_pylist()
    by_id = np.array(sorted(range(len(ids)), key=ids.__getitem__, reverse=True))
    grades = {(p["query_id"], p["doc_id"]): p["relevance"] for p in task.qrels.to_pylist()}
    rows = {(row["query_id"], row["passage_language"]): row for row in table.to_pylist()}
    compared = 0
    for query_id, tag, vector in zip(
        task.queries["query_id"].to_pylist(), task.queries["language"].to_pylist(), queries, strict=True
    ):
        ranking = [ids[row] for row in by_id[np.argsort(-(documents @ vector)[by_id], kind="stable")]]
        for language in task.languages:
            own = [d for d in ranking if tags[ids.index(d)] == language and d != query_id]
            hits = [place for place, d in enumerate(own, start=1) if (query_id, d) in grades]
            lacking = sum(q == query_id and d not in ids for q, d in grades) if tag == language else 0
            if hits or lacking:
                precision = sum(n / place for n, place in enumerate(hits, start=1)) / (len(hits) + lacking)
                assert rows[query_id, language]["AP"] == pytest.approx(precision), (query_id, language)
                compared += 1
            else:
                assert (query_id, language) not in rows
    assert compared > 50


def test_a_question_that_is_itself_a_document_finds_its_answer_first(ray_session: None, tmp_path: Path) -> None:
    """As in ArguAna: the question is the first document of its own list, its counterargument the second."""
    angles = np.arange(0, 360, 20.0)
    documents = [(f"a{n}", "en", f"argument {n}") for n in range(len(angles))]
    queries = [(f"a{n}", "en", f"argument {n}") for n in range(0, len(angles), 2)]
    qrels = [(f"a{n}", f"a{n + 1}") for n in range(0, len(angles), 2)]
    vectors = by_angle(*(angle - 5 * (n % 2) for n, angle in enumerate(angles)))
    task = Task.from_rows("arguments", documents, queries, qrels)
    kept = Task("arguments", task.documents, task.queries, task.qrels, ignore_identical_ids=False)
    figures = [judged(each, vectors[::2], vectors)[1] for each in (kept, task)]
    assert [card.settings["monolingual"]["nDCG@10"] for card in figures] == pytest.approx([1 / np.log2(3), 1.0])
    assert [card.num_identical_ids for card in figures] == [0, len(queries)]
    assert figures[0].task_fingerprint != figures[1].task_fingerprint


def select(task: Task, start: int, num: int) -> pa.Table:
    kept = set(task.queries.slice(start, num)["query_id"].to_pylist())
    return pa.Table.from_pylist([pair for pair in task.qrels.to_pylist() if pair["query_id"] in kept])


def test_scores_survive_the_run_file_to_the_last_bit(tmp_path: Path) -> None:
    scores = np.array([[1 / 3, 1e-30, np.nextafter(np.float32(-1), np.float32(0)), -1.0]], dtype=np.float32)
    path = write_run(tmp_path / "run", ["q"], list("abcd"), Hits(np.arange(4)[None], scores))
    read: Mapping[str, float] = {hit.doc_id: hit.score for hit in ir_measures.read_trec_run(str(path))}
    assert [np.float32(read[doc_id]) for doc_id in "abcd"] == scores[0].tolist()


def test_ids_that_would_break_the_format_are_refused(tmp_path: Path) -> None:
    hits = Hits(np.array([[0]]), np.array([[1.0]], dtype=np.float32))
    for query_id, doc_id, tag in (("q 1", "d", "t"), ("q", "d\n", "t"), ("q", "", "t"), ("q", "d", "my run")):
        with pytest.raises(TaskError) as error:
            write_run(tmp_path / "run", [query_id], [doc_id], hits, tag)
        assert error.value.code == "TREC_FIELD"
    with pytest.raises(TaskError) as error:
        write_run(tmp_path / "run", ["q", "r"], ["d"], hits)
    assert error.value.code == "OTHER_QUERIES"
    task = Task.from_rows("t", [("d 1", "de", "d")], [("q", "de", "q")], [("q", "d 1")])
    with pytest.raises(TaskError) as error:
        write_qrels(tmp_path / "qrels", task)
    assert error.value.code == "TREC_FIELD"
    assert not list(tmp_path.iterdir())
