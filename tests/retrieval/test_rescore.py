"""Rescoring: the raw scores of a real cross-encoder, pair by pair; models that cannot score pairs are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
)

from hbt_ray.data.index.negatives import Negatives, require_scores
from hbt_ray.data.store.store import Store
from hbt_ray.errors import ModelError
from hbt_ray.model.build import build_encoder
from hbt_ray.model.config import ModelConfig
from hbt_ray.model.loading import load_cross_encoder
from hbt_ray.retrieval.encoder import EncoderConfig
from hbt_ray.retrieval.mining.candidates import MineConfig, read_candidates
from hbt_ray.retrieval.mining.mine import mine
from hbt_ray.retrieval.mining.rescore import RescorerConfig, _Rescorer, rescore
from tests.small_data import LANGUAGES, small_store

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_session")]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, an encoder, and cross-encoders with one and with two outputs."""
    folder = tmp_path_factory.mktemp("rescore")
    store = Store(small_store(folder / "store", 20))
    config = ModelConfig(layers=1, width=32, heads=2, vocabulary=300, max_question_length=16, max_passage_length=16)
    encoder = build_encoder(config, store.sample_texts(LANGUAGES))
    encoder.save_pretrained(str(folder / "encoder"))
    torch.manual_seed(3)
    for name, num_labels in (("cross", 1), ("pairs", 2)):
        shape = BertConfig(
            vocab_size=len(encoder.tokenizer),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            num_labels=num_labels,
            initializer_range=0.3,  # So that pairs score unlike.
        )
        BertForSequenceClassification(shape).save_pretrained(folder / name)
        encoder.tokenizer.save_pretrained(folder / name)
    BertModel(shape).save_pretrained(folder / "headless")
    encoder.tokenizer.save_pretrained(folder / "headless")
    return folder


def by_hand(folder: Path, pairs: list[tuple[str, str]]) -> np.ndarray:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return np.array([model(**tokenizer(*pair, return_tensors="pt")).logits.item() for pair in pairs])


def test_scores_are_the_raw_outputs_of_each_pair(workspace: Path) -> None:
    questions = ["What colour is thing 1?", "ما لون شيء 2?"]
    documents = ["The colour is thing", "Die Farbe ist Ding 7 Ding", "thing"]
    pairs = np.array([[0, 2], [1, 0], [0, 0], [1, 1], [0, 1], [1, 0]])
    told: list[int] = []
    config = RescorerConfig(model=str(workspace / "cross"), batch_size=2)
    scores = rescore(config, questions, documents, pairs, told.append)
    expected = by_hand(
        workspace / "cross", [(questions[question], documents[document]) for question, document in pairs]
    )
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    assert not ((expected > 0) & (expected < 1)).all()  # As it would be behind a sigmoid.
    assert len(set(expected.round(4).tolist())) == 5
    assert sum(told) == 6


@pytest.mark.parametrize(
    "model",
    ["encoder", "pairs", "headless"],
)
def test_models_that_cannot_score_pairs_are_refused(workspace: Path, model: str) -> None:
    with pytest.raises(ModelError) as caught:
        _Rescorer(RescorerConfig(model=str(workspace / model)), [ray.put(pa.array(["a"])), ray.put(pa.array(["b"]))])
    assert caught.value.code == "MODEL_KIND"
    assert str(workspace / model) in str(caught.value)


def test_the_refusal_of_a_worker_arrives_as_it_was_raised(workspace: Path) -> None:
    for name, code in (("nowhere", "MODEL_NOT_FOUND"), ("pairs", "MODEL_KIND")):
        with pytest.raises(ModelError) as caught:
            rescore(RescorerConfig(model=str(workspace / name)), ["a"], ["b"], np.array([[0, 0]]))
        assert caught.value.code == code
        assert str(workspace / name) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["bert.encoder.layer.0.output.dense.bias", "classifier.weight", "bert.pooler.dense.bias"]
)
def test_a_cross_encoder_without_some_of_its_weights_is_refused(workspace: Path, tmp_path: Path, key: str) -> None:
    folder = Path(shutil.copytree(workspace / "cross", tmp_path / "cross"))
    tensors = load_file(folder / "model.safetensors")
    del tensors[key]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError) as caught:
        load_cross_encoder(folder, "cpu")
    assert caught.value.code == "MODEL_WEIGHTS"
    assert key in str(caught.value)


@pytest.mark.usefixtures("encode_here")
def test_mining_keeps_the_scores_of_a_cross_encoder_and_the_choice_of_the_model(workspace: Path) -> None:
    store, config = Store(workspace / "store"), MineConfig(language="en", max_share=1.0, keep=3)
    encoder, teacher = EncoderConfig(model=str(workspace / "encoder")), RescorerConfig(model=str(workspace / "cross"))
    mine(store, encoder, config, workspace / "plain", name="scratch")
    made = mine(store, encoder, config, workspace / "rescored", name="scratch", rescorer=teacher)
    assert (made.manifest.model, made.manifest.teacher) == ("scratch", teacher.model)
    plain, rescored = (Negatives.open(workspace / name, store.manifest) for name in ("plain", "rescored"))
    rows = require_scores(rescored).table("colours")
    assert rows is not None
    assert np.array_equal(rows, plain.table("colours"))
    assert rescored.checksum != plain.checksum  # Another teacher teaches another run.
    known = read_candidates(store, store.manifest.datasets[0], "en")
    document_of = {item: document for document, item in enumerate(known.document_items.tolist())}
    for row, item in enumerate(known.items.tolist()):
        documents = [int(known.positives[row]), *(document_of[n] for n in rows[item].tolist() if n >= 0)]
        expected = by_hand(workspace / "cross", [(known.questions[row], known.documents[n]) for n in documents])
        (found,) = rescored.scores("colours", np.array([item]), rows[item][None])
        np.testing.assert_allclose(found[: len(documents)], expected, rtol=1e-4, atol=1e-5)
        assert np.isnan(found[len(documents) :]).all()
