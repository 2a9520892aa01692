"""The stream: through real Ray Data tasks, what the plan says, on any number of ranks and from any step."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import cloudpickle
from ray.util.metrics import Counter

from hbt_ray.data.index.negatives import TeacherScores
from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.data.plan.plan import Plan
from hbt_ray.data.store.store import Store
from hbt_ray.data.stream.loader import AuxiliaryTexts, Loader, LoaderConfig
from hbt_ray.data.stream.rank_batch import RankBatch, from_table, to_table
from hbt_ray.data.stream.stream import StreamConfig, max_unreserved_cpus, step_windows, stream, task_cpus
from hbt_ray.data.stream.tokenise import TokenisingConfig, TokenSections
from hbt_ray.model.build import build_encoder, tokenising_config
from hbt_ray.model.config import ModelConfig
from tests.small_data import LANGUAGES, small_store, write_negatives

pytestmark = pytest.mark.usefixtures("ray_session")
PLAN = PlanConfig(batch_size=12)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("stream") / "store")


@pytest.fixture(scope="module")
def tokenising(store: Path) -> TokenisingConfig:
    config = ModelConfig(layers=1, width=32, heads=2, vocabulary=300, max_question_length=12, max_passage_length=12)
    return tokenising_config(build_encoder(config, Store(store).sample_texts(LANGUAGES)), config)


def streamed(
    store: Path, tokenising: TokenisingConfig, rank: int, world_size: int, start: int, stop: int
) -> list[RankBatch]:
    settings = StreamConfig(rows_per_task=36 // world_size, prefetch_steps=2)
    return list(stream(LoaderConfig(store, PLAN, tokenising), range(start, stop), rank, world_size, settings))


def assert_equal(batch: RankBatch, other: RankBatch) -> None:
    """In every field, to the type."""
    for name in ("step", "kind", "dataset", "language"):
        assert getattr(batch, name) == getattr(other, name)
    assert batch.texts.bounds == other.texts.bounds
    ours, theirs = (
        (
            *(b.items, b.positive_keys, b.negative_keys, b.question_languages, b.passage_languages, b.teacher_scores),
            *(b.texts.tokens.flat_ids(), b.texts.tokens.starts, b.texts.tokens.lengths),
        )
        for b in (batch, other)
    )
    for mine, yours in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, yours, strict=True)


@pytest.mark.integration
@pytest.mark.parametrize(("world_size", "start"), [(1, 0), (2, 0), (3, 7), (4, 10)])
def test_ranks_together_see_the_plan(store: Path, tokenising: TokenisingConfig, world_size: int, start: int) -> None:
    plan = Plan(Store(store).manifest, PLAN)
    ranks = [streamed(store, tokenising, rank, world_size, start, 14) for rank in range(world_size)]
    assert [batch.step for batch in ranks[0]] == list(range(start, 14))
    for batches in zip(*ranks, strict=True):
        whole = plan.batch(batches[0].step)
        assert {(batch.step, batch.kind, batch.language) for batch in batches} == {
            (whole.step, whole.kind, whole.language)
        }
        assert np.array_equal(np.concatenate([batch.items for batch in batches]), whole.items)


def test_rows_arrive_as_the_loader_made_them(store: Path, tokenising: TokenisingConfig) -> None:
    """With all that a batch can bring, from the first step and from a later one."""
    table = (np.arange(60)[:, None] + np.array([2, 17])) % 60
    table[::3] = -1
    scored = TeacherScores(np.arange(60, dtype=np.float32), np.where(table < 0, np.nan, table).astype(np.float32))
    mined = write_negatives(store.with_name("mined"), Store(store).manifest, {"colours": table}, {"colours": scored})
    plan = PLAN.model_copy(update={"negatives": 2})
    auxiliary_texts = (
        AuxiliaryTexts(
            "question_translations", "question", "other", tokenising.tokenizer_json, tokenising.question_prompt, 12
        ),
        AuxiliaryTexts("teacher_passages", "passage", "exactly:en", tokenising.tokenizer_json, "teach: ", 9),
    )
    config = LoaderConfig(
        store, plan, tokenising, negatives=mined, auxiliary_texts=auxiliary_texts, teacher_scores=True
    )
    loader = Loader(config)
    settings = StreamConfig(rows_per_task=18, prefetch_steps=2)
    for start in (0, 4):
        for batch in stream(config, range(start, 6), 1, 2, settings):
            assert_equal(batch, loader.rank_batch(batch.step, 1, 2))
            assert batch.texts["questions"].lengths.max() <= 12
            assert len(batch.texts["negatives"]) == 12
            assert batch.teacher_scores.shape == (6, 3)
            assert batch.texts["teacher_passages"].lengths.min() > 0
            arrays = (batch.texts.tokens.ids, batch.texts.tokens.lengths, batch.teacher_scores)
            assert not any(array.flags.owndata for array in arrays)  # Views of the object store.


def test_a_long_stream_is_a_chain_of_datasets(
    store: Path, tokenising: TokenisingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hbt_ray.data.stream.stream._WINDOWS_PER_DATASET", 2)
    assert [batch.step for batch in streamed(store, tokenising, 0, 1, 5, 25)] == list(range(5, 25))


@pytest.mark.parametrize("size", [1, 3, 64])
def test_windows_cover_every_step_once_and_grow(size: int) -> None:
    windows = list(step_windows(7, 500, size))
    assert [step for window in windows for step in window] == list(range(7, 500))
    sizes = [len(window) for window in windows[:-1]]
    assert sizes == sorted(sizes)
    assert sizes[0] == -(-size // 8)
    assert max(sizes) == size


@dataclass(frozen=True, slots=True)
class WatchedConfig(LoaderConfig):
    """Writes a line for every window that a task begins: its process, its first step, its number of steps."""

    log: Path = Path()
    fatal_step: int = -1
    """The first task that comes to this step kills itself."""

    def open(self) -> Loader:
        return WatchedLoader(self)

    def begun(self) -> list[list[int]]:
        return [list(map(int, line.split())) for line in self.log.read_text().splitlines()] if self.log.exists() else []


class WatchedLoader(Loader):
    def __init__(self, config: WatchedConfig) -> None:
        super().__init__(config)
        self._config = config

    def rank_batches(self, steps: range, rank: int, world_size: int) -> list[RankBatch]:
        before = [first for _, first, _ in self._config.begun()]
        with self._config.log.open("a") as file:
            file.write(f"{os.getpid()} {steps.start} {len(steps)}\n")
        batches = super().rank_batches(steps, rank, world_size)
        if self._config.fatal_step in steps and steps.start not in before:
            os.kill(os.getpid(), signal.SIGKILL)
        return batches


@pytest.fixture
def sent_by_value(ray_session: None) -> Iterator[None]:
    """So that tasks need not find this module."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


@pytest.mark.integration
@pytest.mark.usefixtures("sent_by_value")
def test_a_task_killed_in_the_middle_changes_nothing(store: Path, tokenising: TokenisingConfig, tmp_path: Path) -> None:
    config = WatchedConfig(store, PLAN, tokenising, log=tmp_path / "log", fatal_step=20)
    loader = Loader(LoaderConfig(store, PLAN, tokenising))
    batches = list(stream(config, range(40), 0, 1, StreamConfig(rows_per_task=48)))
    assert [batch.step for batch in batches] == list(range(40))
    for batch in batches:
        assert_equal(batch, loader.rank_batch(batch.step, 0, 1))
    processes = [pid for pid, first, size in config.begun() if first <= 20 < first + size]
    assert len(set(processes)) == 2


@pytest.mark.integration
@pytest.mark.usefixtures("sent_by_value")
def test_a_slow_consumer_holds_the_tasks_back(store: Path, tokenising: TokenisingConfig, tmp_path: Path) -> None:
    def steps_ahead(mib: float) -> int:
        config = WatchedConfig(store, PLAN, tokenising, log=tmp_path / f"log-{mib}")
        settings = StreamConfig(rows_per_task=1_200, prefetch_steps=100, prefetch_mib=mib)
        batches = stream(config, range(20_000), 0, 1, settings)
        tokens = next(batches).texts.tokens
        size = tokens.ids.nbytes + tokens.lengths.nbytes
        limit = 3 * mib * 2**20 / size
        seen, quiet = 0, 0
        while quiet < 4 and seen < limit:  # Until nothing was begun for two seconds.
            time.sleep(0.5)
            now = sum(steps for _, _, steps in config.begun())
            seen, quiet = now, quiet + 1 if now == seen else 0
        assert seen < limit
        assert [next(batches).step for _ in range(seen)] == list(range(1, seen + 1))  # It goes on where it was.
        batches.close()
        return seen

    assert steps_ahead(0.5) < steps_ahead(1.5)


def test_tasks_ask_for_a_cpu_that_nobody_reserved() -> None:
    nodes = [
        {"NodeID": "a", "Alive": True, "Resources": {"CPU": 4.0}},
        {"NodeID": "b", "Alive": True, "Resources": {"CPU": 1.5, "GPU": 1.0}},
        {"NodeID": "c", "Alive": False, "Resources": {"CPU": 64.0}},
    ]

    def group(state: str, **bundles: float) -> dict[str, Any]:
        return {
            "state": state,
            "bundles": {number: {"CPU": cpus} for number, cpus in enumerate(bundles.values())},
            "bundles_to_node_id": dict(enumerate(bundles)),
        }

    assert max_unreserved_cpus(nodes, []) == 4
    assert max_unreserved_cpus(nodes, [group("CREATED", a=3.0), group("CREATED", a=0.5, b=1.5)]) == 0.5
    assert max_unreserved_cpus(nodes, [group("REMOVED", a=4.0)]) == 4
    assert max_unreserved_cpus([], []) == 0
    assert task_cpus() == 1.0


def test_rows_and_waiting_are_counted(
    store: Path, tokenising: TokenisingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: dict[str, float] = {}

    def inc(counter: Counter, value: float, tags: dict[str, str]) -> None:
        assert tags == {"rank": "1"}
        counted[counter.info["name"]] = counted.get(counter.info["name"], 0) + value

    monkeypatch.setattr(Counter, "inc", inc)
    streamed(store, tokenising, 1, 2, 0, 14)
    assert counted["hbt_stream_rows"] == 14 * 6
    assert 0 < counted["hbt_stream_wait_seconds"] < 60


@pytest.mark.parametrize("steps", [range(3, 4), range(5, 12)])
def test_a_block_holds_what_was_put_in(store: Path, tokenising: TokenisingConfig, steps: range) -> None:
    batches = Loader(LoaderConfig(store, PLAN, tokenising)).rank_batches(steps, 0, 1)
    with_more = [
        replace(
            batch,
            texts=TokenSections.concatenate(
                {"questions": batch.texts["questions"], "texts.a": batch.texts["passages"][:number]}
            ),
            negative_keys=np.arange(number),
            teacher_scores=np.full((number, 3), np.float32(number)),
        )
        for number, batch in enumerate(batches)
    ]
    for sent in (batches, with_more):
        for received, batch in zip(from_table(to_table(sent)), sent, strict=True):
            assert_equal(received, batch)
