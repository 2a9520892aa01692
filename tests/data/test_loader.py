"""Rank batches: mined negatives are in the language of their row's passage; missing texts have no tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hbt_ray.data.index.negatives import TeacherScores
from hbt_ray.data.plan.auxiliary_translations import TranslationRule, TranslationSampler
from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.data.prepare import StoreConfig, prepare
from hbt_ray.data.store.store import Store
from hbt_ray.data.stream.loader import AuxiliaryTexts, Loader, LoaderConfig
from hbt_ray.data.stream.rank_batch import from_table, to_table
from hbt_ray.data.stream.tokenise import TokenisingConfig, tokenise
from hbt_ray.model.build import build_encoder, tokenising_config
from hbt_ray.model.config import ModelConfig
from hbt_ray.storage import write_checked_json
from tests.data.test_relevant_passages import prepare_rows
from tests.refused import refused
from tests.small_data import LANGUAGES, small_store, write_negatives


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, TokenisingConfig]:
    """A store, its negatives (none for every third item), and a tokenizer."""
    folder = tmp_path_factory.mktemp("local")
    store = Store(small_store(folder / "store"))
    table = (np.arange(60)[:, None] + np.array([2, 17, 31])) % 60
    table[::3] = -1
    write_negatives(folder / "mined", store.manifest, {"colours": table})
    config = ModelConfig(layers=1, width=32, heads=2, vocabulary=300, max_question_length=12, max_passage_length=64)
    return (
        folder / "store",
        folder / "mined",
        tokenising_config(build_encoder(config, store.sample_texts(LANGUAGES)), config),
    )


@pytest.mark.parametrize("policy", ["mono", "cross"])
def test_negatives_are_passages_in_the_language_of_their_row(
    workspace: tuple[Path, Path, TokenisingConfig], policy: str
) -> None:
    path, mined, tokenising = workspace
    loader = Loader(
        LoaderConfig(path, PlanConfig(policy=policy, batch_size=12, negatives=2), tokenising, negatives=mined)
    )
    store = Store(path)
    for step in range(6):
        planned, batch = loader.plan.batch(step).slice(1, 2), loader.rank_batch(step, 1, 2)
        items = planned.negatives.ravel()
        codes = np.repeat(planned.passage_languages, 2)
        assert np.array_equal(batch.texts["negatives"].lengths > 0, items >= 0)
        assert (items < 0).any()
        assert (items >= 0).any()
        texts = []
        for item, code, key in zip(items.tolist(), codes.tolist(), batch.negative_keys.tolist(), strict=True):
            if item < 0:
                assert key == 0
                continue
            row, in_language = np.array([item]), np.array([code], np.int16)
            texts += store.texts_of("colours", "passage", row, in_language, loader.plan.languages)
            assert key == store.passage_keys("colours", row)[0]
        expected = tokenise(tokenising.tokenizer_json, tokenising.passage_prompt, texts, tokenising.max_passage_length)
        assert np.array_equal(batch.texts["negatives"].flat_ids(), expected.ids)
        assert np.array_equal(batch.texts["negatives"].lengths[items >= 0], expected.lengths)


def test_a_slice_without_any_negative_has_places_for_them(workspace: tuple[Path, Path, TokenisingConfig]) -> None:
    path, mined, tokenising = workspace
    loader = Loader(
        LoaderConfig(path, PlanConfig(policy="mono", batch_size=60, negatives=1), tokenising, negatives=mined)
    )
    batches = [loader.rank_batch(0, rank, 60) for rank in range(60)]
    without = [batch for batch in batches if batch.items[0] % 3 == 0]
    assert len(without) == 20
    assert all(
        batch.texts["negatives"].lengths.tolist() == [0] and not len(batch.texts["negatives"].flat_ids())
        for batch in without
    )
    assert all(len(batch.negative_keys) == 1 for batch in batches)


def test_datasets_with_different_numbers_of_right_passages_share_a_window(tmp_path: Path) -> None:
    rows = [("one", f"o{n}", "en", f"question {n}", f"passage {n}", f"q{n}", f"p{n}") for n in range(8)]
    rows += [("three", f"t{n}", "en", f"more {n}", f"text {n}", f"r{n // 3}", f"s{n}") for n in range(9)]
    store = prepare_rows(tmp_path, rows)
    assert sorted(info.max_right for info in store.manifest.datasets) == [1, 3]
    config = ModelConfig(layers=1, width=32, heads=2, vocabulary=300, max_question_length=12, max_passage_length=12)
    tokenising = tokenising_config(build_encoder(config, store.sample_texts(("en",))), config)
    loader = Loader(LoaderConfig(store.location, PlanConfig(policy="mono", batch_size=4), tokenising))
    batches = list(from_table(to_table(loader.rank_batches(range(12), 0, 1))))
    assert {batch.dataset for batch in batches} == {"one", "three"}
    for batch in batches:
        stored = store.positive_keys(batch.dataset, batch.items)
        assert batch.positive_keys.shape == (4, 3)
        assert [set(row) for row in batch.positive_keys.tolist()] == [set(row) for row in stored.tolist()]


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Items in all three languages, in Arabic and German, and in German alone."""
    path = tmp_path_factory.mktemp("sparse") / "store"
    whole = small_store(path.with_name("whole"), 30)
    table = path.with_suffix(".jsonl")
    kept = [
        line
        for number, line in enumerate(whole.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines())
        if LANGUAGES[number % 3] in [("ar", "de", "en"), ("ar", "de"), ("de",)][number // 3 % 3]
    ]
    table.write_text("\n".join(kept), encoding="utf-8")
    source = {"kind": "table", "name": "colours", "path": str(table), "columns": {"passage_id": "passage_id"}}
    prepare(StoreConfig.make({"path": str(path), "sources": [source]}, "test"))
    return path


def auxiliary_texts(tokenising: TokenisingConfig, teacher: TokenisingConfig) -> tuple[AuxiliaryTexts, ...]:
    return (
        AuxiliaryTexts(
            "question_translations", "question", "other", tokenising.tokenizer_json, tokenising.question_prompt, 12
        ),
        AuxiliaryTexts("teacher_passages", "passage", "exactly:en", teacher.tokenizer_json, "passage: ", 9),
    )


@pytest.mark.parametrize("world_size", [1, 4, 11])
@pytest.mark.parametrize("languages", [(), ("ar", "de")], ids="-".join)
def test_auxiliary_texts_are_the_rows_in_the_language_of_their_translation(
    workspace: tuple[Path, Path, TokenisingConfig], sparse: Path, world_size: int, languages: tuple[str, ...]
) -> None:
    """For 10 rows: uneven slices, and one without a row; with a teacher's tokenizer that is not the student's."""
    tokenising, store = workspace[2], Store(sparse)
    small = ModelConfig(layers=1, width=32, heads=2, vocabulary=150)
    teacher = tokenising_config(build_encoder(small, store.sample_texts(("en",))), small)
    assert teacher.tokenizer_json != tokenising.tokenizer_json
    plan = PlanConfig(policy="hybrid", batch_size=10, languages=languages)
    loader = Loader(LoaderConfig(sparse, plan, tokenising, auxiliary_texts=auxiliary_texts(tokenising, teacher)))
    ranks = [loader.rank_batches(range(5, 14), rank, world_size) for rank in range(world_size)]
    seen = set()
    for parts in zip(*ranks, strict=True):
        whole = loader.plan.batch(parts[0].step)
        for column in ("question_languages", "passage_languages"):
            codes = np.concatenate([getattr(part, column) for part in parts])
            assert codes.dtype == np.int64
            assert np.array_equal(codes, getattr(whole, column))
        for auxiliary in auxiliary_texts(tokenising, teacher):
            sampler = TranslationSampler(
                loader.plan.datasets[0], loader.plan.languages, auxiliary.side, TranslationRule.parse(auxiliary.rule), 0
            )
            codes = sampler.sample(whole)
            expected = [
                tokenise(
                    auxiliary.tokenizer_json,
                    auxiliary.prompt,
                    [text(store, item, auxiliary.side, code)],
                    auxiliary.max_length,
                ).ids
                if code
                else np.empty(0, np.int32)
                for item, code in zip(
                    whole.items.tolist(), [sampler.languages[c] if c >= 0 else "" for c in codes], strict=True
                )
            ]
            seen |= {(auxiliary.name, code >= 0) for code in codes.tolist()}
            sections = [part.texts[auxiliary.name] for part in parts]
            assert [len(tokens) for tokens in sections] == [len(part.items) for part in parts]
            assert np.array_equal(np.concatenate([tokens.flat_ids() for tokens in sections]), np.concatenate(expected))
            assert np.concatenate([tokens.lengths for tokens in sections]).tolist() == list(map(len, expected))
    assert len(seen) == 4  # Rows with and rows without, of either.


def text(store: Store, item: int, side: str, language: str) -> str:
    return store.item("colours", item).texts[language][side]


def test_scores_come_with_the_rows_where_they_are_asked_for(
    workspace: tuple[Path, Path, TokenisingConfig], tmp_path: Path
) -> None:
    path, without, tokenising = workspace
    table = (np.arange(60)[:, None] + np.array([2, 17, 31])) % 60
    table[::3] = -1
    scored = TeacherScores(np.arange(60, dtype=np.float32), np.where(table < 0, np.nan, table / 100).astype(np.float32))
    mined = write_negatives(tmp_path / "mined", Store(path).manifest, {"colours": table}, {"colours": scored})
    plan = PlanConfig(batch_size=12, negatives=2)
    loader = Loader(LoaderConfig(path, plan, tokenising, negatives=mined, teacher_scores=True))
    for batch in loader.rank_batches(range(6), 2, 5):
        negatives = loader.plan.batch(batch.step).slice(2, 5).negatives
        expected = np.column_stack([batch.items, np.where(negatives < 0, np.nan, negatives / 100)])
        np.testing.assert_array_equal(batch.teacher_scores, expected.astype(np.float32))
        assert batch.teacher_scores.dtype == np.float32
    assert loader.rank_batch(0, 12, 13).teacher_scores.shape == (1, 3)
    assert loader.rank_batch(0, 0, 13).teacher_scores.shape == (0, 3)  # A rank without rows.
    without_scores = Loader(LoaderConfig(path, plan, tokenising, negatives=mined)).rank_batch(0, 0, 1)
    assert without_scores.teacher_scores.shape == (0, 0)
    with refused("NO_TEACHER_SCORES", "holds no scores for colours"):
        Loader(LoaderConfig(path, plan, tokenising, negatives=without, teacher_scores=True))


def test_auxiliary_texts_with_invalid_rules_are_refused(workspace: tuple[Path, Path, TokenisingConfig]) -> None:
    path, _, tokenising = workspace
    auxiliary = AuxiliaryTexts("question_translations", "question", "any", tokenising.tokenizer_json, "", 12)
    with refused("TRANSLATION_RULE", "'any'"):
        Loader(LoaderConfig(path, PlanConfig(), tokenising, auxiliary_texts=(auxiliary,)))


def test_a_translation_that_the_manifest_only_promises_is_an_error(
    workspace: tuple[Path, Path, TokenisingConfig], sparse: Path, tmp_path: Path
) -> None:
    tokenising, damaged = workspace[2], shutil.copytree(sparse, tmp_path / "store")
    manifest = json.loads((damaged / "manifest.json").read_text())
    for group in manifest["datasets"][0]["groups"]:
        group["languages"] = list(LANGUAGES)
    write_checked_json(damaged / "manifest.json", manifest)
    auxiliary = AuxiliaryTexts("teacher_passages", "passage", "exactly:en", tokenising.tokenizer_json, "", 12)
    loader = Loader(
        LoaderConfig(
            damaged,
            PlanConfig(policy="mono", languages=("de",), batch_size=30),
            tokenising,
            auxiliary_texts=(auxiliary,),
        )
    )
    with refused("MISSING_TEXT", "lacks values of passage.en", "hbt store verify"):
        loader.rank_batch(0, 0, 1)
