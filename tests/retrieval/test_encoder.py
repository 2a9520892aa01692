"""Encoding through Ray Data: the vectors of SentenceTransformer, in order, each text once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hbt_ray.errors import ModelError
from hbt_ray.model.build import build_encoder
from hbt_ray.model.config import ModelConfig
from hbt_ray.retrieval import encoder as encoding
from hbt_ray.retrieval.encoder import EncoderActor, EncoderConfig, encode
from hbt_ray.retrieval.evaluate import evaluate_task
from hbt_ray.retrieval.result import EvaluationResult
from hbt_ray.retrieval.tasks import Task
from hbt_ray.retrieval.vectors import TextSet

pytestmark = pytest.mark.usefixtures("ray_session")

QUESTIONS = [f"question number {number} " + "word " * (number % 9) for number in range(70)] + ["question number 3 word"]
PASSAGES = [f"a passage {number}, " + "and more " * (number % 13) for number in range(50)] * 2


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A small encoder, as a folder and as the library reads it."""
    from sentence_transformers import SentenceTransformer

    folder = tmp_path_factory.mktemp("encode") / "model"
    config = ModelConfig(layers=1, width=32, heads=2, vocabulary=200, max_question_length=16, max_passage_length=24)
    build_encoder(config, QUESTIONS + PASSAGES).save_pretrained(str(folder))
    return folder, SentenceTransformer(str(folder), device="cpu")


@pytest.mark.integration
def test_vectors_are_those_of_the_library_in_order(library: tuple[Path, Any]) -> None:
    folder, model = library
    encoded = encode(EncoderConfig(model=str(folder), batch_size=16), QUESTIONS, PASSAGES)
    assert np.abs(encoded.questions - model.encode_query(QUESTIONS)).max() < 1e-6
    assert np.abs(encoded.passages - model.encode_document(PASSAGES)).max() < 1e-6
    assert np.array_equal(encoded.passages[:50], encoded.passages[50:])  # Equal texts, equal bits.
    assert encoded.peak_memory_bytes > 50_000_000


def test_texts_of_as_many_tokens_share_a_batch(library: tuple[Path, Any]) -> None:
    """As many characters are few tokens in words that the tokenizer knows, and many in others."""
    encoder = EncoderActor(EncoderConfig(model=str(library[0]), batch_size=8))
    masks = []
    encoder._model.register_forward_pre_hook(lambda _, given: masks.append(given[0]["attention_mask"]))
    known, unknown = "passage more", "xzqjkvwxzqjk"
    texts = [f"{known if number % 2 else unknown} {number:02}" for number in range(32)]
    encoder(pa.table({"number": range(32), "side": [1] * 32, "text": texts}))
    assert len(masks) == 4
    assert max(mask.sum(1).max() for mask in masks) > 2 * min(mask.sum(1).min() for mask in masks)
    assert sum(mask.numel() for mask in masks) < 1.15 * sum(int(mask.sum()) for mask in masks)


@pytest.mark.usefixtures("encode_here")
def test_prompts_and_length_can_be_given_and_change_the_fingerprint(library: tuple[Path, Any]) -> None:
    folder, model = library
    plain = encode(EncoderConfig(model=str(folder)), QUESTIONS[:5], PASSAGES[:5])
    given = encode(EncoderConfig(model=str(folder), question_prompt="ask ", max_length=8), QUESTIONS[:5], PASSAGES[:5])
    assert plain.fingerprint != given.fingerprint
    assert plain.fingerprint == encode(EncoderConfig(model=str(folder)), [], PASSAGES[:1]).fingerprint
    model.max_seq_length, model[0].query_length = 8, None
    assert np.abs(given.questions - model.encode(QUESTIONS[:5], prompt="ask ")).max() < 1e-6


@pytest.mark.integration
def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError) as caught:
        encode(EncoderConfig(model=str(tmp_path)), ["q"], ["p"])
    assert caught.value.code == "MODEL_WEIGHTS"
    assert str(tmp_path) in str(caught.value)


def test_an_evaluation_leaves_result_queries_and_trec_files(library: tuple[Path, Any], tmp_path: Path) -> None:
    import ir_measures

    documents = [
        (f"{language}_{n}", language, f"{PASSAGES[n]} {language}") for language in ("de", "en") for n in range(20)
    ]
    queries = [
        (f"{language}_q{n}", language, f"{QUESTIONS[n]} {language}") for language in ("de", "en") for n in range(20)
    ]
    qrels = [(query, f"{language}_{query.split('q')[1]}") for query, *_ in queries for language in ("de", "en")]
    task = Task.from_rows("toy", documents, queries, qrels)
    config = EncoderConfig(model=str(library[0]))
    result = evaluate_task(config, task, tmp_path / "toy", name="small", trec_depth=40)
    assert EvaluationResult.load(tmp_path / "toy" / "result.json") == result
    evidence = EvaluationResult.load(tmp_path / "toy" / "result.json")
    assert evidence.queries is not None
    assert evidence.queries.num_rows == 40 * 3
    assert evidence.failures is not None
    texts = {row[0]: row[2] for row in (*documents, *queries)}
    relevant = set(qrels)
    for row in evidence.failures.to_pylist():
        assert (row["query_id"], row["gold_id"]) in relevant
        assert (row["query_id"], row["first_id"]) not in relevant
        assert [row["question"], row["gold"], row["first"]] == [
            texts[row[name]] for name in ("query_id", "gold_id", "first_id")
        ]
    assert result.num_queries == {"de": 20, "en": 20}

    run = ir_measures.read_trec_run(str(tmp_path / "toy" / "run.trec"))
    judged = ir_measures.read_trec_qrels(str(tmp_path / "toy" / "qrels.trec"))
    measure = ir_measures.parse_measure("AP")
    theirs = ir_measures.calc_aggregate([measure], judged, run)[measure]
    assert result.settings["multilingual"]["AP"] == pytest.approx(theirs, abs=1e-9)


@pytest.mark.usefixtures("encode_here")
def test_no_text_is_encoded_twice(library: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shutil.copytree(library[0], tmp_path / "model")
    config, cache = EncoderConfig(model=str(model)), tmp_path / "vectors"
    first = encode(config, QUESTIONS, PASSAGES[:50], cache=cache)
    assert np.array_equal(first.passages, encode(config, [], PASSAGES[:50]).passages)

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("something was encoded")

    with monkeypatch.context() as patch:
        patch.setattr(encoding, "map_blocks", refuse)
        (model / "README.md").write_text("a card says nothing about vectors")
        told: list[int] = []
        again = encode(config, QUESTIONS, PASSAGES[:50], told.append, cache=cache)
        assert np.array_equal(again.questions, first.questions)
        assert np.array_equal(again.passages, first.passages)
        assert isinstance(again.passages, np.memmap)
        assert (again.fingerprint, again.peak_memory_bytes) == (first.fingerprint, 0)
        assert sum(told) == len(QUESTIONS) + 50
        for other in (config.model_copy(update={"max_length": 8}), config.model_copy(update={"question_prompt": "q "})):
            with pytest.raises(AssertionError, match="something was encoded"):
                encode(other, QUESTIONS, PASSAGES[:50], cache=cache)
        (model / "model.safetensors").write_bytes(b"other weights")
        with pytest.raises(AssertionError, match="something was encoded"):
            encode(config, QUESTIONS, PASSAGES[:50], cache=cache)


@pytest.mark.usefixtures("encode_here")
def test_half_precision_gives_unit_vectors_near_those_of_fp32(library: tuple[Path, Any]) -> None:
    full = encode(EncoderConfig(model=str(library[0])), QUESTIONS, PASSAGES)
    half = encode(EncoderConfig(model=str(library[0]), precision="bf16"), QUESTIONS, PASSAGES)
    assert np.abs(np.linalg.norm(half.passages, axis=1) - 1).max() < 1e-6
    error = 1 - (half.passages * full.passages).sum(axis=1)
    assert 0 < error.max() < 1e-3
    assert half.fingerprint != full.fingerprint


def test_a_set_of_texts_is_known_by_its_texts_their_order_and_side() -> None:
    sets = [
        TextSet.of(0, ["a", "bc"]),
        TextSet.of(0, ["ab", "c"]),
        TextSet.of(0, ["bc", "a"]),
        TextSet.of(1, ["a", "bc"]),
    ]
    assert len({texts.checksum for texts in sets}) == 4
    twice = TextSet.of(0, ["a", "bc", "a"])
    assert twice.checksum == sets[0].checksum
    assert twice.expand(np.array([[1], [2]], np.float32)).tolist() == [[1], [2], [1]]
