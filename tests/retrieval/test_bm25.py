"""BM25: the words of many scripts, scores by the formula, exact ranks, and results like those of other systems."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import ir_measures
import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from hbt_ray.cli.app import app
from hbt_ray.errors import ConfigError
from hbt_ray.retrieval import bm25 as words_module
from hbt_ray.retrieval.bm25 import K1, B, Bm25Index, tokenise_queries, tokenise_texts, tokenise_words
from hbt_ray.retrieval.tasks import Task
from tests.retrieval.task_files import write


@pytest.mark.parametrize(
    ("language", "text", "found"),
    [
        ("de", "Wer regierte die Häuser?", ["wer", "regiert", "die", "haus"]),
        ("de-AT", "Häuser", ["haus"]),
        ("el", "ΣΕΙΣΜΌΣ", ["σεισμ"]),  # Case folding makes the last sigma like the others.
        ("sw", "Nyumba kubwa 3.11", ["nyumba", "kubwa", "3", "11"]),  # No stemmer: words as they are.
        ("zh", "我喜欢Python，东", ["我喜", "喜欢", "python", "东"]),
        ("en", "ｆｕｌｌ ﬁne", ["full", "fine"]),
        ("hi", "राजधानी क्या", ["राजधान", "क्य"]),  # Vowel signs are no letters, and yet of the word.
        ("th", "ที่นี่มี", ["ที่นี่", "นี่มี"]),  # A consonant with its marks is one character.
        ("ko", "서울은 강", ["서울", "울은", "강"]),
        ("ja", "データ", ["デー", "ータ"]),
        ("el", "όταν", []),  # Nothing but an ending.
        ("en", " … — ", []),
    ],
)
def test_words_of_many_scripts(language: str, text: str, found: list[str]) -> None:
    assert tokenise_words([text], language) == [found]


def corpus(seed: int = 0, num: int = 60) -> Task:
    """Few words and short texts, so that scores tie often; German and English share names."""
    rng = np.random.default_rng(seed)
    vocabulary = {"de": ["haus", "brot", "wald", "zoo", "rom"], "en": ["tree", "book", "cat", "zoo", "rom"]}
    documents = [
        (f"{tag}_{n}", tag, " ".join(rng.choice(vocabulary[tag], rng.integers(0, 6)))) for tag in vocabulary
        for n in range(num)
    ]  # fmt: skip
    documents = [(doc_id, tag, text or "…") for doc_id, tag, text in documents]
    queries = [(f"{tag}_q{n}", tag, " ".join(rng.choice(vocabulary[tag], 2))) for tag in vocabulary for n in range(20)]
    qrels = [(query, f"{tag}_{rng.integers(num)}") for query, *_ in queries for tag in vocabulary]
    return Task.from_rows("few", documents, queries, list(dict.fromkeys(qrels)))


def by_formula(read: list[list[str]], query: list[str]) -> list[float]:
    """BM25 in Lucene's variant: ln(1 + (N - df + 0.5) / (df + 0.5)) · tf / (tf + k1 (1 - b + b |d| / mean))."""
    mean = sum(map(len, read)) / len(read)
    scores = []
    for own in read:
        score = 0.0
        for word in query:
            frequency = sum(word in other for other in read)
            weight = math.log(1 + (len(read) - frequency + 0.5) / (frequency + 0.5))
            times = own.count(word)
            score += weight * times / (times + K1 * (1 - B + B * len(own) / mean))
        scores.append(score)
    return scores


def test_scores_ranks_and_hits_are_those_of_the_formula() -> None:
    task = corpus()
    index, queries = Bm25Index.of_task(task), tokenise_queries(task.queries)
    ids, tags = task.documents["doc_id"].to_pylist(), np.array(task.documents["language"].to_pylist())
    read = tokenise_texts(task.documents["text"].to_pylist(), tags.tolist())
    places, hits = index.document_ranks(queries, task.relevant), index.search(queries, len(ids))

    def ranking(rows: np.ndarray, query: list[str]) -> list[int]:
        scores = by_formula([read[row] for row in rows], query)
        order = sorted(range(len(rows)), key=lambda n: (round(scores[n], 5), ids[rows[n]]), reverse=True)
        return [int(rows[n]) for n in order]

    everything = np.arange(len(ids))
    for number, query in enumerate(queries):
        whole = ranking(everything, query)
        matched = [row for row in whole if set(read[row]) & set(query)]
        assert hits.documents[number].tolist() == matched + [-1] * (len(ids) - len(matched))
        scores = by_formula(read.tolist(), query)
        found = hits.scores[number, : len(matched)]
        assert found == pytest.approx([scores[row] for row in matched], rel=1e-5)
        assert np.isneginf(hits.scores[number, len(matched) :]).all()
        for column, row in enumerate(task.relevant[number].tolist()):
            if row >= 0:
                assert places.pool[number, column] == whole.index(row) + 1
                assert (
                    places.in_language[number, column] == ranking(everything[tags == tags[row]], query).index(row) + 1
                )
            else:
                assert (places.pool[number, column], places.in_language[number, column]) == (0, 0)


def test_a_corpus_or_a_query_without_words_scores_nothing() -> None:
    task = Task.from_rows(
        "mute",
        [("a", "de", "…"), ("b", "de", "?"), ("c", "en", "house")],
        [("q", "de", "Haus"), ("r", "en", "!")],
        [("q", "a"), ("r", "c")],
    )
    index, queries = Bm25Index.of_task(task), tokenise_queries(task.queries)
    assert (index.search(queries, 2).documents == -1).all()
    assert index.document_ranks(queries, task.relevant).pool.tolist() == [[3], [1]]  # All tie: the greater id first.
    assert index.document_ranks(queries, task.relevant).in_language.tolist() == [[2], [1]]


def hbt(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.stdout, str(done.exception or "") + done.stderr


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "facts"
    (folder / "qrels").mkdir(parents=True)
    texts = ["Nairobi is the capital of Kenya", "Rome is in Italy", "The zoo of Berlin"]
    rows = [{"_id": str(n), "title": "", "text": text} for n, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "capital of Kenya"}) + "\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t0\t1\n")
    return folder


def test_bm25_is_judged_like_a_model_and_its_run_file_has_what_it_found(beir: Path, tmp_path: Path) -> None:
    code, out, _ = hbt(
        "evaluate", "bm25", "--task", f"beir={beir}", f"storage_path={tmp_path}", "trec_depth=3", "--json"
    )
    assert code == 0
    (result,) = json.loads(out)["results"]
    assert (result["model"], result["settings"]["monolingual"]["AP"]) == ("bm25", 1.0)
    folder = tmp_path / "bm25" / "results" / "facts"
    run = list(ir_measures.read_trec_run(str(folder / "run.trec")))
    assert [row.doc_id for row in run] == ["0", "2"]  # The third shares no word.
    assert hbt("report", tmp_path / "bm25")[0] == 0


def test_a_question_that_is_a_document_is_left_out_in_every_file_of_a_result(tmp_path: Path) -> None:
    """Texts in the manner of ArguAna; its qrels name a document that the corpus lacks, and one has a grade."""
    folder = tmp_path / "arguments"
    write(folder / "corpus.jsonl.bz2", [{"_id": f"a{n}", "title": "", "text": f"zoo word{n // 2} {'other ' * (n % 2)}"}
                                        for n in range(12)])  # fmt: skip
    write(folder / "queries.jsonl.zst", [{"_id": f"a{n}", "text": f"zoo word{n // 2}"} for n in range(0, 12, 2)])
    qrels = [(f"a{n}", f"a{n + 1}", 1 + n % 4) for n in range(0, 12, 2)] + [("a0", "gone", 1)]
    write(
        folder / "qrels" / "test.tsv.gz", ["query_id\tdoc_id\trelevance", *("\t".join(map(str, row)) for row in qrels)]
    )
    values = {}
    for ignored in ("true", "false"):
        task = f"beir={folder},ignore_identical_ids={ignored},name=ignored-{ignored},measures=nDCG@10"
        code, out, error = hbt(
            "evaluate", "bm25", "--task", task, f"storage_path={tmp_path}", "trec_depth=11", "--json"
        )
        assert code == 0, error
        (result,) = json.loads(out)["results"]
        values[ignored] = result["settings"]["monolingual"]["nDCG@10"]
        assert (result["num_identical_ids"], result["num_missing"]) == (6 if ignored == "true" else 0, 1)
        results = tmp_path / "bm25" / "results" / f"ignored-{ignored}"
        theirs = ir_measures.calc_aggregate(
            [ir_measures.parse_measure("nDCG@10")],
            ir_measures.read_trec_qrels(str(results / "qrels.trec")),
            ir_measures.read_trec_run(str(results / "run.trec")),
        )
        assert list(theirs.values()) == pytest.approx([values[ignored]])
        firsts = pq.read_table(results / "failures.parquet")
        assert (firsts["query_id"].to_pylist() == firsts["first_id"].to_pylist()) is (
            ignored == "false" or not len(firsts)
        )
    # Of the two answers to a0 one is never found.
    assert values["true"] == pytest.approx((5 + 1 / (1 + 1 / np.log2(3))) / 6)
    assert values["false"] < 0.65


@pytest.mark.parametrize("option", ["posthoc=centering", "--untrained", "encoder.precision=bf16"])
def test_what_bm25_does_not_have_is_refused(beir: Path, option: str) -> None:
    code, _, error = hbt("evaluate", "bm25", "--task", f"beir={beir}", option)
    assert code != 0
    assert "bm25 has neither vectors nor weights" in error


def test_bitexts_are_left_out(beir: Path, tmp_path: Path) -> None:
    for side in ("deu", "eng"):
        (tmp_path / f"tatoeba.deu-eng.{side}").write_text("eins\nzwei\n")
    arguments = ("evaluate", "bm25", f"storage_path={tmp_path}", "--task", f"tatoeba={tmp_path}")
    code, out, error = hbt(*arguments, "--task", f"beir={beir}")
    assert code == 0
    assert "tatoeba: left out" in out + error
    code, _, error = hbt(*arguments)
    assert code != 0
    assert "bitexts" in error


@pytest.mark.parametrize("package", ["bm25s", "Stemmer", "regex"])
def test_a_missing_package_is_named_with_its_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for cached in (words_module._patterns, words_module._stemmer):
        cached.cache_clear()
    with pytest.raises(ConfigError) as error:
        Bm25Index(["a"], ["de"], ["Haus"])
    assert error.value.code == "MISSING_PACKAGE"
