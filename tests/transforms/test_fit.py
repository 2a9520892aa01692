"""What is drawn from a store, and the whole way: fitted by one command, used by another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from typer.testing import CliRunner

from hbt_ray.cli.app import app
from hbt_ray.data.prepare import StoreConfig, prepare
from hbt_ray.data.store.store import Store
from hbt_ray.errors import ConfigError, ModelError
from hbt_ray.model.build import ModelConfig, build_encoder
from hbt_ray.retrieval.encoder import EncoderConfig, encode
from hbt_ray.retrieval.score import score_rankings
from hbt_ray.retrieval.search.sharded_index import ShardedIndex
from hbt_ray.retrieval.tasks import Task, open_task
from hbt_ray.retrieval.transforms import Centering, Lir, Shift, Transform, fit_to_store
from hbt_ray.retrieval.transforms.fit import sample_texts
from hbt_ray.retrieval.transforms.transform import Vectors

LANGUAGES = ("de", "el", "en")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two data sets: one with German and English of the same items, one of English and, for a single item, Greek."""
    folder = tmp_path_factory.mktemp("posthoc")
    rows = {
        "both": [(f"b{n}", language) for n in range(30) for language in ("de", "en")],
        "english": [(f"e{n}", "en") for n in range(10)] + [("e0", "el")],
    }
    sources = []
    for name, items in rows.items():
        table = [
            {"item_id": item, "language": lang, "question": f"what of {item} {lang}", "passage": f"text {item} {lang}"}
            for item, lang in items
        ]
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
        sources.append({"kind": "table", "name": name, "path": str(path)})
    prepare(StoreConfig.make({"path": str(folder / "store"), "sources": sources}, "test"))
    return Store(folder / "store")


def test_texts_are_spread_over_all_that_there_are_and_always_the_same(store: Store) -> None:
    drawn = {(sample.side, sample.language): sample for sample in sample_texts(store, Centering(texts=20))}
    # Greek has one text, from which no mean can be told.
    assert drawn.keys() == {(side, language) for side in ("question", "passage") for language in ("de", "en")}
    german, english = drawn["passage", "de"].texts, drawn["passage", "en"].texts
    assert len(set(german)) == len(set(english)) == 20
    assert sum("text e" in text for text in english) == 5, "a quarter of the English items"
    assert all(sample.anchors == () for sample in drawn.values())
    assert drawn["question", "de"].texts == tuple(f"what of{text[4:]}" for text in german)
    assert sample_texts(store, Centering(texts=20)) == list(drawn.values())
    everything = {sample.language: sample for sample in sample_texts(store, Lir()) if sample.side == "passage"}
    assert (len(everything["de"].texts), len(everything["en"].texts)) == (30, 40)


def test_languages_and_data_sets_can_be_left_out(store: Store) -> None:
    (german, english) = sample_texts(store, Centering(datasets=("both",), languages=("en", "de"), documents_only=True))[
        ::-1
    ]
    assert (german.language, english.language) == ("de", "en")
    assert [text.replace(" de", " en") for text in german.texts] == list(english.texts)
    assert {sample.language for sample in sample_texts(store, Lir(languages=("en",)))} == {"en"}
    with pytest.raises(ConfigError) as error:
        sample_texts(store, Lir(languages=("en", "fr")))
    assert error.value.code == "UNKNOWN_LANGUAGE"
    with pytest.raises(ConfigError, match="datasets=news: the store has only both, english"):
        sample_texts(store, Lir(datasets=("news",)))


def test_shift_draws_pairs_of_parallel_passages(store: Store) -> None:
    (pairs,) = sample_texts(store, Shift(texts=12))
    assert (pairs.side, pairs.language, len(pairs.texts)) == ("passage", "de", 12)
    assert [text.replace(" de", " en") for text in pairs.texts] == list(pairs.anchors)
    with pytest.raises(ConfigError) as error:
        sample_texts(store, Shift(source="fr"))
    assert error.value.code == "UNKNOWN_LANGUAGE"
    with pytest.raises(ConfigError) as error:
        sample_texts(store, Shift(source="el"))
    assert error.value.code == "TOO_FEW_TEXTS"
    with pytest.raises(ConfigError) as error:
        sample_texts(store, Lir(directions=41))
    assert error.value.code == "TOO_FEW_TEXTS"


class Letters(NamedTuple):
    """An encoder of sorts: how often some letters occur."""

    questions: Vectors
    passages: Vectors
    fingerprint: str = "letters"

    @classmethod
    def of(cls, *sides: Any) -> Letters:
        counts = [np.array([[text.count(x) for x in "den123"] for text in side], np.float32) for side in sides]
        return cls(*(side.reshape(-1, 6) for side in counts))


def test_each_language_learns_from_its_own_rows(store: Store) -> None:
    centred = fit_to_store(store, Centering(), Letters.of)
    assert (centred.encoder, centred.name, centred.unit) == ("letters", "centering", False)
    assert centred.texts == {side: {"de": 30, "en": 40} for side in ("question", "passage")}
    for side in ("question", "passage"):
        german = next(s.texts for s in sample_texts(store, Centering()) if (s.side, s.language) == (side, "de"))
        vectors = Letters.of(german, german).passages
        assert centred.parameters[side]["de"] == pytest.approx(vectors.mean(axis=0, keepdims=True))
    shifted = fit_to_store(store, Shift(), Letters.of, name="mine")
    # `de` against `en` at the end of every text: a d more, an n less.
    assert shifted.parameters == {"passage": {"de": pytest.approx(np.array([[1, 0, -1, 0, 0, 0]]))}}
    assert shifted.name == "mine"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of worldfacts in three languages and an encoder that was never trained."""
    folder = tmp_path_factory.mktemp("posthoc-cli")
    facts = {"kind": "worldfacts", "split": "dev", "languages": list(LANGUAGES)}
    prepare(StoreConfig.make({"path": str(folder / "store"), "sources": [facts]}, "test"))
    sizes = ModelConfig(layers=1, width=32, heads=2, vocabulary=400, max_question_length=16, max_passage_length=24)
    build_encoder(sizes, Store(folder / "store").sample_texts(LANGUAGES, 50)).save_pretrained(str(folder / "model"))
    return folder


def hbt(*arguments: str | Path) -> dict[str, Any]:
    """What the command says in JSON; run in this process, so that it uses the tests' cluster."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.integration
@pytest.mark.usefixtures("ray_session", "encode_here")
def test_a_fix_is_fitted_kept_with_the_model_and_judged(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = workspace / "model", open_task("worldfacts=dev", LANGUAGES)
    encoded = encode(EncoderConfig(model=str(model)), *(t["text"].to_pylist() for t in (task.queries, task.documents)))
    fitted = (
        "posthoc",
        model,
        "--store",
        workspace / "store",
        "method.texts=200",
        "name=small",
        f"storage_path={workspace}",
    )
    told = hbt(*fitted, "--method", "centering")
    path = model / "posthoc" / "centering.safetensors"
    assert (told["posthoc"], told["encoder"]) == (str(path), encoded.fingerprint)
    assert told["texts"] == {side: dict.fromkeys(LANGUAGES, 200) for side in ("question", "passage")}

    judged = (
        "evaluate",
        model,
        "--task",
        "worldfacts=dev",
        "--languages",
        ",".join(LANGUAGES),
        f"storage_path={workspace}",
    )
    (result,) = hbt(*judged, "name=small", "posthoc=centering")["results"]
    assert (result["model"], result["variant"]) == ("small+centering", "centering")
    assert result["fingerprint"] != encoded.fingerprint
    assert (workspace / "small" / "results" / "worldfacts+centering" / "result.json").exists()
    transform = Transform.load(path)
    sides = (("question", encoded.questions, task.queries), ("passage", encoded.passages, task.documents))
    fixed = [
        centred(vectors, table["language"].to_pylist(), transform.parameters[side]) for side, vectors, table in sides
    ]
    expected = settings_of(task, *fixed)
    for setting, measures in settings_of(task, encoded.questions, encoded.passages).items():
        told = {name: result["settings"][setting][name] for name in measures}
        assert told == pytest.approx(expected[setting], rel=1e-3)
        assert told != pytest.approx(measures, rel=1e-2)
    with pytest.raises(ModelError) as error:
        hbt(*judged, "posthoc=centering", "encoder.max_length=9")
    assert error.value.code == "OTHER_ENCODER"

    # Other methods learn from the same texts, whose vectors are kept.
    monkeypatch.setattr("hbt_ray.retrieval.encoder._encode", None)
    assert hbt(*fitted, "--method", "lir")["encoder"] == encoded.fingerprint


def centred(vectors: Vectors, languages: list[str], means: Mapping[str, Vectors]) -> Vectors:
    rows = [vector - means[language][0] for vector, language in zip(vectors, languages, strict=True)]
    return np.array([row / np.linalg.norm(row) for row in rows], np.float32)


def settings_of(task: Task, questions: Vectors, passages: Vectors) -> dict[str, dict[str, float]]:
    with ShardedIndex.of_task(task, passages) as index:
        return score_rankings(task, questions, index)[1].settings
