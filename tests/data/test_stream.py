"""The stream: through real Ray Data tasks, what the plan says, on any number of ranks and from any step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hbt_ray.data.local import Loader, LocalBatch, TokenisingConfig
from hbt_ray.data.plan import Plan
from hbt_ray.data.policy import PlanConfig
from hbt_ray.data.store import Store
from hbt_ray.data.stream import Origin, StreamConfig, stream
from hbt_ray.train.model import ModelConfig, build, tokenising
from tests.worlds import LANGUAGES, small_store, write_negatives

pytestmark = pytest.mark.usefixtures("ray_session")
PLAN = PlanConfig(batch_size=12)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("stream") / "store")


@pytest.fixture(scope="module")
def how(store: Path) -> TokenisingConfig:
    config = ModelConfig(layers=1, width=32, heads=2, vocabulary=300, max_question_length=12, max_passage_length=12)
    return tokenising(build(config, Store(store).sample_texts(LANGUAGES)), config)


def streamed(store: Path, how: TokenisingConfig, rank: int, world_size: int, start: int, stop: int) -> list[LocalBatch]:
    settings = StreamConfig(steps_per_task=3, prefetch_steps=2)
    return list(stream(Origin(store, PLAN, how, rank, world_size), start, stop, settings))


@pytest.mark.parametrize(("world_size", "start"), [(1, 0), (2, 0), (3, 7), (4, 10)])
def test_ranks_together_see_the_plan(store: Path, how: TokenisingConfig, world_size: int, start: int) -> None:
    plan = Plan(Store(store).manifest, PLAN)
    ranks = [streamed(store, how, rank, world_size, start, 14) for rank in range(world_size)]
    assert [batch.step for batch in ranks[0]] == list(range(start, 14))
    for batches in zip(*ranks, strict=True):
        whole = plan.batch(batches[0].step)
        assert {(batch.step, batch.kind, batch.language) for batch in batches} == {
            (whole.step, whole.kind, whole.language)
        }
        assert np.array_equal(np.concatenate([batch.items for batch in batches]), whole.items)


def test_rows_arrive_as_the_loader_made_them(store: Path, how: TokenisingConfig) -> None:
    table = (np.arange(60)[:, None] + np.array([2, 17])) % 60
    table[::3] = -1
    mined = write_negatives(store.with_name("mined"), Store(store).manifest, {"colours": table})
    plan = PLAN.model_copy(update={"negatives": 2})
    loader = Loader(store, plan, how, negatives=mined)
    settings = StreamConfig(steps_per_task=3, prefetch_steps=2)
    for batch in stream(Origin(store, plan, how, 1, 2, negatives=mined), 0, 6, settings):
        made = loader.local(batch.step, 1, 2)
        assert (batch.kind, batch.dataset, batch.language) == (made.kind, made.dataset, made.language)
        for ours, theirs in (
            (batch.items, made.items),
            (batch.passage_keys, made.passage_keys),
            (batch.questions.ids, made.questions.ids),
            (batch.questions.lengths, made.questions.lengths),
            (batch.passages.ids, made.passages.ids),
            (batch.passages.lengths, made.passages.lengths),
            (batch.negatives.ids, made.negatives.ids),
            (batch.negatives.lengths, made.negatives.lengths),
            (batch.negative_keys, made.negative_keys),
        ):
            assert ours.dtype == theirs.dtype
            assert np.array_equal(ours, theirs)
        assert batch.questions.lengths.sum() == len(batch.questions.ids)
        assert batch.questions.lengths.max() <= 12
        assert len(batch.negatives) == 12


def test_a_long_stream_is_a_chain_of_datasets(
    store: Path, how: TokenisingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hbt_ray.data.stream._MAX_LEGS", 2)
    assert [batch.step for batch in streamed(store, how, 0, 1, 5, 25)] == list(range(5, 25))
