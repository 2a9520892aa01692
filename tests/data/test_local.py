"""The local batch: mined negatives are in the language of their row's passage; what is not there has no tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hbt_ray.data.plan.policy import PlanConfig
from hbt_ray.data.store.store import Store
from hbt_ray.data.stream.local import Loader, TokenisingConfig
from hbt_ray.data.stream.tokens import tokenise
from hbt_ray.train.model.config import ModelConfig
from hbt_ray.train.model.encoder import build, tokenising
from tests.worlds import LANGUAGES, small_store, write_negatives


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, TokenisingConfig]:
    """A store, its negatives (none for every third item), and a tokenizer."""
    folder = tmp_path_factory.mktemp("local")
    store = Store(small_store(folder / "store"))
    table = (np.arange(60)[:, None] + np.array([2, 17, 31])) % 60
    table[::3] = -1
    write_negatives(folder / "mined", store.manifest, {"colours": table})
    config = ModelConfig(layers=1, width=32, heads=2, vocabulary=300, max_question_length=12, max_passage_length=64)
    return folder / "store", folder / "mined", tokenising(build(config, store.sample_texts(LANGUAGES)), config)


@pytest.mark.parametrize("policy", ["mono", "cross"])
def test_negatives_are_passages_in_the_language_of_their_row(
    world: tuple[Path, Path, TokenisingConfig], policy: str
) -> None:
    path, mined, how = world
    loader = Loader(path, PlanConfig(policy=policy, batch_size=12, negatives=2), how, negatives=mined)
    store = Store(path)
    for step in range(6):
        planned, batch = loader.plan.batch(step).slice(1, 2), loader.local(step, 1, 2)
        items = planned.negatives.ravel()
        codes = np.repeat(planned.passage_languages, 2)
        assert np.array_equal(batch.negatives.lengths > 0, items >= 0)
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
        expected = tokenise(how.tokenizer_json, how.passage_prompt, texts, how.max_passage_length)
        assert np.array_equal(batch.negatives.ids, expected.ids)
        assert np.array_equal(batch.negatives.lengths[items >= 0], expected.lengths)


def test_a_slice_without_any_negative_has_places_for_them(world: tuple[Path, Path, TokenisingConfig]) -> None:
    path, mined, how = world
    loader = Loader(path, PlanConfig(policy="mono", batch_size=60, negatives=1), how, negatives=mined)
    batches = [loader.local(0, rank, 60) for rank in range(60)]
    without = [batch for batch in batches if batch.items[0] % 3 == 0]
    assert len(without) == 20
    assert all(batch.negatives.lengths.tolist() == [0] and not len(batch.negatives.ids) for batch in without)
    assert all(len(batch.negative_keys) == 1 for batch in batches)
