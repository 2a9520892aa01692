"""Mining: the window, the margins and the drops by hand and by brute force; then real stores, models and commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_ray.data.index.negatives import Negatives
from hbt_ray.data.prepare import StoreConfig, prepare
from hbt_ray.data.store.store import Store
from hbt_ray.errors import ConfigError, ModelError
from hbt_ray.model.build import build_encoder
from hbt_ray.model.config import ModelConfig
from hbt_ray.retrieval.encoder import EncodedTexts, EncoderConfig, encode
from hbt_ray.retrieval.mining.candidates import (
    DROP_REASONS,
    Candidates,
    MineConfig,
    choose_negatives,
    normalised,
    read_candidates,
)
from hbt_ray.retrieval.mining.mine import languages_to_mine, mine
from tests.small_data import LANGUAGES, small_store

NEAR, SAME, EQUAL, HOLDS = range(len(DROP_REASONS))


def candidates(
    positives: list[int], texts: list[str], questions: list[str] | None = None, answers: list[str] | None = None
) -> Candidates:
    asked = questions or [f"question {number}" for number in range(len(positives))]
    numbers, kinds = np.array([asked.index(q) for q in asked]), np.array([texts.index(text) for text in texts])
    own = np.array(positives)
    return Candidates(
        items=np.arange(len(asked)) * 10,
        questions=asked,
        answers=answers or [""] * len(asked),
        positives=own,
        documents=texts,
        document_items=np.arange(len(texts)) * 10,
        texts=texts,
        text_numbers=kinds,
        question_numbers=numbers,
        answered=np.unique(numbers * len(texts) + kinds[own]),
    )


def ranked(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = np.argsort(-scores, axis=1, kind="stable")
    return found, np.take_along_axis(scores, found, axis=1)


def chosen(given: Candidates, scores: list[list[float]], **values: Any) -> tuple[list[list[int]], dict[str, int]]:
    matrix = np.array(scores, np.float32)
    found, ordered = ranked(matrix)
    positive = matrix[np.arange(len(matrix)), given.positives]
    config = MineConfig(**{"max_share": 1.0, "keep": 3, **values})
    documents, _, dropped, _ = choose_negatives(given, slice(0, len(matrix)), found, ordered, positive, config)
    return documents.tolist(), {name: n for name, n in zip(DROP_REASONS, dropped.tolist(), strict=True) if n}


SCORES = [[0.5, 0.8, 0.3, 0.79, 0.7, 0.2]]  # The question's own passage is 1; the others rank 3, 4, 0, 2, 5.
TEXTS = list("abcdef")


def test_ranks_count_from_one_and_leave_out_the_questions_own_passage() -> None:
    given = candidates([1], TEXTS)
    assert chosen(given, SCORES) == ([[3, 4, 0]], {})
    assert chosen(given, SCORES, ranks="2:3") == ([[4, 0, -1]], {})
    assert chosen(given, SCORES, ranks="5:100") == ([[5, -1, -1]], {})
    assert chosen(given, SCORES, ranks="6:100") == ([[-1, -1, -1]], {})
    assert chosen(given, SCORES, keep=1) == ([[3]], {})


def test_margins_drop_what_scores_near_the_positive_and_keep_its_rank() -> None:
    given = candidates([1], TEXTS)
    assert chosen(given, SCORES, max_share=0.95) == ([[4, 0, 2]], {DROP_REASONS[NEAR]: 1})  # 0.79 > 0.76
    assert chosen(given, SCORES, margin=0.2) == ([[0, 2, 5]], {DROP_REASONS[NEAR]: 2})  # 0.7 > 0.6
    assert chosen(given, SCORES, margin=0.2, ranks="2:3") == ([[0, -1, -1]], {DROP_REASONS[NEAR]: 1})
    below_zero = [[-0.5, -0.4, -0.41, -0.43, 0.1, -0.6]]
    # A share of 0.95 of -0.4 asks for less than -0.42, and not for less than -0.38.
    assert chosen(given, below_zero, max_share=0.95) == ([[3, 0, 5]], {DROP_REASONS[NEAR]: 2})
    ties = [[0.8, 0.8, 0.3, 0.79, 0.7, 0.2]]
    assert chosen(given, ties) == ([[3, 4, 2]], {DROP_REASONS[NEAR]: 1})  # Not below, so not outscored.


def test_passages_that_answer_are_dropped() -> None:
    assert chosen(candidates([1], ["a", "b", "c", "b", "e", "f"]), SCORES) == ([[4, 0, 2]], {DROP_REASONS[SAME]: 1})
    answers = candidates([1], ["a", "b", "c", "the red fox", "a fox", "f"], answers=["red fox"])
    assert chosen(answers, SCORES) == ([[4, 0, 2]], {DROP_REASONS[HOLDS]: 1})
    twice = candidates([1, 4], TEXTS, questions=["who?", "who?"])
    both = [SCORES[0], [0.5, 0.6, 0.3, 0.2, 0.7, 0.1]]
    assert chosen(twice, both) == ([[3, 0, 2], [0, 2, 3]], {DROP_REASONS[EQUAL]: 2})


def test_texts_are_compared_in_words() -> None:
    assert normalised("The  U.S. Army,\n1942—45") == "the u s army 1942 45"
    assert normalised("ＡＢＣ 北京") == "abc 北 京"


@st.composite
def small_data(draw: st.DrawFn) -> tuple[Candidates, np.ndarray, MineConfig]:
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    num_questions, num_documents = draw(st.integers(1, 8)), draw(st.integers(1, 12))
    texts = [f"text {rng.integers(0, 10)} x" for _ in range(num_documents)]
    asked = [f"q{rng.integers(0, 6)}" for _ in range(num_questions)]
    answers = [str(rng.choice(["", "text 1", "8 x", "absent"])) for _ in range(num_questions)]
    given = candidates(rng.integers(0, num_documents, num_questions).tolist(), texts, asked, answers)
    first = draw(st.integers(1, 5))
    config = MineConfig(
        ranks=(first, first + draw(st.integers(0, 8))),
        margin=draw(st.sampled_from([0.0, 0.1])),
        max_share=draw(st.sampled_from([0.8, 0.95, 1.0])),
        keep=draw(st.integers(1, 6)),
    )
    return given, rng.integers(-10, 11, (num_questions, num_documents)).astype(np.float32) / 10, config


@given(small_data())
@settings(max_examples=300, deadline=None)
def test_choices_are_those_of_brute_force(workspace: tuple[Candidates, np.ndarray, MineConfig]) -> None:
    known, scores, config = workspace
    found, ordered = ranked(scores)
    positive = scores[np.arange(len(scores)), known.positives]
    depth = config.ranks[1] + 1
    documents, told, dropped, _ = choose_negatives(
        known, slice(0, len(scores)), found[:, :depth], ordered[:, :depth], positive, config
    )  # As searched.
    num_candidates = num_kept = 0
    for row, order in enumerate(found.tolist()):
        own = int(known.positives[row])
        window = [document for document in order if document != own][config.ranks[0] - 1 : config.ranks[1]]
        ceiling = float(positive[row]) - max(config.margin, (1 - config.max_share) * abs(float(positive[row])))
        equal = {
            known.texts[p] for p, q in zip(known.positives, known.questions, strict=True) if q == known.questions[row]
        }
        right = [
            document
            for document in window
            if float(scores[row, document]) < ceiling
            and known.texts[document] != known.texts[own]
            and known.texts[document] not in equal
            and not (known.answers[row] and known.answers[row] in known.texts[document])
        ]
        assert [n for n in documents[row].tolist() if n >= 0] == right[: config.keep]
        unknown = [np.nan] * (config.keep - len(right))
        np.testing.assert_array_equal(told[row], [*scores[row, right[: config.keep]], *unknown])
        num_candidates += len(window)
        num_kept += len(right)
    assert dropped.sum() == num_candidates - num_kept


def test_windows_and_languages_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for ranks in ("9:3", "0:5", "10", "a:b", ":", [5, 2]):
        with pytest.raises(ConfigError, match=r"ranks: .*FIRST:LAST"):
            MineConfig.make({"ranks": ranks}, "test")
    assert MineConfig.make({"ranks": "10:100"}, "test").model_dump(mode="json")["ranks"] == "10:100"
    store = Store(small_store(tmp_path / "store", 6)).manifest
    with pytest.raises(ConfigError) as error:
        languages_to_mine(store, MineConfig(language="fr"))
    assert error.value.code == "UNKNOWN_LANGUAGE"
    assert languages_to_mine(store, MineConfig()) == {"colours": "ar"}
    assert languages_to_mine(store, MineConfig(language="en", datasets=("colours",))) == {"colours": "en"}
    with pytest.raises(ConfigError, match="datasets=shapes: the store has only colours"):
        languages_to_mine(store, MineConfig(datasets=("shapes",)))


def test_answers_are_read_where_the_store_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(small_store(tmp_path / "store", 6))
    (info,) = store.manifest.datasets
    known = read_candidates(store, info, "en")
    assert known.answers == [""] * 6
    assert len(known.documents) == 3
    passages = store.texts_of("colours", "passage", np.arange(6), np.zeros(6, np.int16), ("en",))
    assert [known.documents[document] for document in known.positives] == passages
    answers = ["Thing 1!", "", "no", " ", "北京市", "The colour is thing 2 thing"]
    read = Store.texts_of
    monkeypatch.setattr(
        Store, "texts_of", lambda self, of, side, *rest: answers if side == "answer" else read(self, of, side, *rest)
    )
    known = read_candidates(store, info, "en")
    assert known.answers == ["thing 1", "", "", "", "北 京 市", "the colour is thing 2 thing"]


def test_no_right_passage_of_a_question_is_mined_for_it(tmp_path: Path) -> None:
    """Right by the question's text or id, and by the text of a passage under another id or with other punctuation."""
    rows = [
        ("1", "who rules?", "the king", "", "p1"), ("2", "Who rules", "the queen", "", "p2"),
        ("3", "which person rules?", "a duke", "q1", "p3"), ("4", "which ruler is it?", "an earl", "q1", "p4"),
        ("5", "who sings?", "The King!", "", "p5"), ("6", "who cooks?", "an earl", "", "p6"),
        ("7", "who digs?", "a mole", "", "p7"),
    ]  # fmt: skip
    names = ("item_id", "question", "passage", "question_id", "passage_id")
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(json.dumps({**dict(zip(names, row, strict=True)), "language": "en"}) for row in rows))
    columns = {"question_id": "question_id", "passage_id": "passage_id"}
    source = {"kind": "table", "name": "set", "path": str(path), "columns": columns}
    prepare(StoreConfig.make({"path": str(tmp_path / "store"), "sources": [source]}, "test"))
    store = Store(tmp_path / "store")
    (info,) = store.manifest.datasets
    known = read_candidates(store, info, "en")
    assert len(known.documents) == 6  # Those of 4 and 6 are one.
    scores = np.zeros((7, 6), np.float32)
    scores[np.arange(7), known.positives] = 1
    found, ordered = ranked(scores)
    chosen = choose_negatives(known, slice(0, 7), found, ordered, np.ones(7, np.float32), MineConfig(keep=6))
    documents = chosen.documents
    ruled, dukes = {"the king", "The King!", "the queen"}, {"a duke", "an earl"}
    right = {"1": ruled, "2": ruled, "3": dukes, "4": dukes, "5": {"the king", "The King!"}, "6": {"an earl"}}
    for item, mined in zip(known.items.tolist(), documents, strict=True):
        number = store.item("set", item).item_id
        assert {known.documents[n] for n in mined if n >= 0} == {*known.documents} - right.get(number, {"a mole"})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> EncoderConfig:
    folder = tmp_path_factory.mktemp("mining")
    store = small_store(folder / "store")
    config = ModelConfig(layers=1, width=32, heads=2, vocabulary=300, max_question_length=16, max_passage_length=16)
    build_encoder(config, Store(store).sample_texts(LANGUAGES)).save_pretrained(str(folder / "model"))
    return EncoderConfig(model=str(folder / "model"))


@pytest.mark.integration
@pytest.mark.usefixtures("ray_session", "encode_here")
def test_a_store_is_mined_dataset_by_dataset(
    model: EncoderConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two datasets of unlike languages; every pick is what brute force over the model's vectors picks."""
    source = Path(model.model).parent / "store.jsonl"
    german = tmp_path / "german.jsonl"
    lines = [line for line in source.read_text().splitlines() if '"language": "de"' in line]
    german.write_text("\n".join(lines[:20]))
    columns = {"passage_id": "passage_id"}
    sources = [
        {"kind": "table", "name": name, "path": str(path), "columns": columns}
        for name, path in (("all", source), ("german", german))
    ]
    prepare(StoreConfig.make({"path": str(tmp_path / "store"), "sources": sources, "deduplicate": False}, "test"))
    store = Store(tmp_path / "store")
    config = MineConfig(ranks=(3, 12), max_share=0.999, keep=4)
    seen: list[EncodedTexts] = []

    def watched(*given: Any) -> EncodedTexts:
        seen.append(encode(*given))
        return seen[-1]

    monkeypatch.setattr("hbt_ray.retrieval.mining.mine.encode", watched)
    monkeypatch.setattr("hbt_ray.retrieval.mining.mine._PAIRS", 300)  # The questions go in three parts.
    made = mine(store, model, config, tmp_path / "mined", name="scratch")
    negatives = Negatives.open(tmp_path / "mined", store.manifest)
    assert negatives.manifest == made.manifest
    assert (negatives.unscored, made.manifest.teacher) == ([], "scratch")
    assert [(mined.name, mined.language) for mined in made.manifest.datasets] == [("all", "ar"), ("german", "de")]
    for vectors, info, language, size in zip(seen, store.manifest.datasets, ("ar", "de"), (60, 20), strict=True):
        known = read_candidates(store, info, language)
        rows = negatives.table(info.name)
        assert rows is not None
        assert rows.shape == (size, 4)
        scores = vectors.questions.astype(np.float64) @ vectors.passages.astype(np.float64).T
        keys = store.passage_keys(info.name, np.arange(size))
        for item, picked in zip(known.items.tolist(), rows[known.items], strict=True):
            own = known.positives[item]
            order = [document for document in np.argsort(-scores[item]).tolist() if document != own][2:12]
            right = [document for document in order if scores[item, document] < 0.999 * scores[item, own]]
            assert [n for n in picked.tolist() if n >= 0] == known.document_items[right[:4]].tolist()
            assert keys[item] not in {keys[n] for n in picked.tolist() if n >= 0}
            (given,) = negatives.scores(info.name, np.array([item]), picked[None, ::-1])
            np.testing.assert_allclose(given[0], scores[item, own], rtol=1e-6)
            np.testing.assert_allclose(given[1:][::-1][: len(right)], scores[item, right[:4]], rtol=1e-6)
            assert np.isnan(given[1:][::-1][len(right) :]).all()
        outside = np.setdiff1d(np.arange(size), known.items)
        assert np.isnan(negatives.scores(info.name, outside, rows[outside])).all()
    assert {example.dataset for example in made.examples} == {"all", "german"}
    assert all(example.negative_score < example.positive_score for example in made.examples)

    monkeypatch.setattr("hbt_ray.retrieval.mining.mine.encode", lambda *given: seen[0])
    only = mine(
        store, model, MineConfig(language="en", ranks=(1, 5), max_share=1.0), tmp_path / "english", name="scratch"
    )
    assert [mined.name for mined in only.manifest.datasets] == ["all"]
    with pytest.raises(ConfigError) as error:
        mine(store, model, MineConfig(language="en", ranks=(1, 5), margin=3.0), tmp_path / "none", name="scratch")
    assert error.value.code == "NOTHING_MINED"
    assert not (tmp_path / "none").exists()
    with pytest.raises(ConfigError) as error:
        mine(store, model, MineConfig(), tmp_path / "english", name="scratch")
    assert error.value.code == "OUTPUT_EXISTS"


def test_mining_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> EncodedTexts:
        raise ModelError("no such model")

    monkeypatch.setattr("hbt_ray.retrieval.mining.mine.encode", broken)
    store = Store(small_store(tmp_path / "store", 6))
    with pytest.raises(ModelError, match="no such model"):
        mine(store, EncoderConfig(model="x"), MineConfig(), tmp_path / "out" / "mined", name="broken")
    assert not list((tmp_path / "out").iterdir())
