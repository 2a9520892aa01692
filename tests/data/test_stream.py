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
from hbt_ray.data.stream.auxiliary_texts import AuxiliaryTexts
from hbt_ray.data.stream.block import pack, unpack
from hbt_ray.data.stream.cpus import most_spare, task_cpus
from hbt_ray.data.stream.loader import Loader, RankBatch, TokenisingConfig
from hbt_ray.data.stream.stream import Origin, StreamConfig, step_windows, stream
from hbt_ray.data.stream.tokenise import Tokens
from hbt_ray.model.build import build_encoder, tokenising_config
from hbt_ray.model.config import ModelConfig
from tests.worlds import LANGUAGES, small_store, write_negatives

pytestmark = pytest.mark.usefixtures("ray_session")
PLAN = PlanConfig(batch_size=12)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("stream") / "store")


@pytest.fixture(scope="module")
def how(store: Path) -> TokenisingConfig:
    config = ModelConfig(layers=1, width=32, heads=2, vocabulary=300, max_question_length=12, max_passage_length=12)
    return tokenising_config(build_encoder(config, Store(store).sample_texts(LANGUAGES)), config)


def streamed(store: Path, how: TokenisingConfig, rank: int, world_size: int, start: int, stop: int) -> list[RankBatch]:
    settings = StreamConfig(rows_per_task=36 // world_size, prefetch_steps=2)
    return list(stream(Origin(store, PLAN, how, rank, world_size), start, stop, settings))


def assert_equal(batch: RankBatch, other: RankBatch) -> None:
    """In every field, to the type."""
    for name in ("step", "kind", "dataset", "language"):
        assert getattr(batch, name) == getattr(other, name)
    assert list(batch.views) == list(other.views)
    ours, theirs = (
        (
            *(b.items, b.right_keys, b.negative_keys, b.question_languages, b.passage_languages, b.teacher_scores),
            *(part for side in (*sides(b), *b.views.values()) for part in (side.ids, side.lengths)),
        )
        for b in (batch, other)
    )
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine.dtype == yours.dtype
        np.testing.assert_array_equal(mine, yours, strict=True)


def sides(batch: RankBatch) -> tuple[Tokens, Tokens, Tokens]:
    return batch.questions, batch.passages, batch.negatives


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
    """With all that a batch can bring, from the first step and from a later one."""
    table = (np.arange(60)[:, None] + np.array([2, 17])) % 60
    table[::3] = -1
    scored = TeacherScores(np.arange(60, dtype=np.float32), np.where(table < 0, np.nan, table).astype(np.float32))
    mined = write_negatives(store.with_name("mined"), Store(store).manifest, {"colours": table}, {"colours": scored})
    plan = PLAN.model_copy(update={"negatives": 2})
    views = (
        AuxiliaryTexts("question_versions", "question", "other", how.tokenizer_json, how.question_prompt, 12),
        AuxiliaryTexts("teacher_passages", "passage", "exactly:en", how.tokenizer_json, "teach: ", 9),
    )
    loader = Loader(store, plan, how, negatives=mined, views=views, scores=True)
    settings = StreamConfig(rows_per_task=18, prefetch_steps=2)
    origin = Origin(store, plan, how, 1, 2, negatives=mined, views=views, scores=True)
    for start in (0, 4):
        for batch in stream(origin, start, 6, settings):
            assert_equal(batch, loader.local(batch.step, 1, 2))
            assert batch.questions.lengths.max() <= 12
            assert len(batch.negatives) == 12
            assert batch.teacher_scores.shape == (6, 3)
            assert batch.views["teacher_passages"].lengths.min() > 0
            arrays = (batch.questions.ids, batch.views["question_versions"].ids, batch.teacher_scores)
            assert not any(array.flags.owndata for array in arrays)  # Views of the object store.


def test_a_long_stream_is_a_chain_of_datasets(
    store: Path, how: TokenisingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hbt_ray.data.stream.stream._MAX_LEGS", 2)
    assert [batch.step for batch in streamed(store, how, 0, 1, 5, 25)] == list(range(5, 25))


@pytest.mark.parametrize("steps", [1, 3, 64])
def test_legs_cover_every_step_once_and_grow(steps: int) -> None:
    legs = list(step_windows(7, 500, steps))
    assert [step for leg in legs for step in leg] == list(range(7, 500))
    sizes = [len(leg) for leg in legs[:-1]]
    assert sizes == sorted(sizes)
    assert sizes[0] == -(-steps // 8)
    assert max(sizes) == steps


@dataclass(frozen=True, slots=True)
class Watched(Origin):
    """Writes a line for every leg that a task begins: its process, its first step, its number of steps."""

    log: Path = Path()
    fatal_step: int = -1
    """The first task that comes to this step kills itself."""

    def open(self) -> Loader:
        return WatchedLoader(self)

    def begun(self) -> list[list[int]]:
        return [list(map(int, line.split())) for line in self.log.read_text().splitlines()] if self.log.exists() else []


class WatchedLoader(Loader):
    def __init__(self, origin: Watched) -> None:
        super().__init__(origin.store, origin.plan, origin.tokenising)
        self._origin = origin

    def leg(self, steps: range, rank: int, world_size: int) -> list[RankBatch]:
        before = [first for _, first, _ in self._origin.begun()]
        with self._origin.log.open("a") as file:
            file.write(f"{os.getpid()} {steps.start} {len(steps)}\n")
        made = super().leg(steps, rank, world_size)
        if self._origin.fatal_step in steps and steps.start not in before:
            os.kill(os.getpid(), signal.SIGKILL)
        return made


@pytest.fixture
def sent_by_value(ray_session: None) -> Iterator[None]:
    """So that tasks need not find this module."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


@pytest.mark.usefixtures("sent_by_value")
def test_a_task_killed_in_the_middle_changes_nothing(store: Path, how: TokenisingConfig, tmp_path: Path) -> None:
    origin = Watched(store, PLAN, how, 0, 1, log=tmp_path / "log", fatal_step=20)
    loader = Loader(store, PLAN, how)
    batches = list(stream(origin, 0, 40, StreamConfig(rows_per_task=48)))
    assert [batch.step for batch in batches] == list(range(40))
    for batch in batches:
        assert_equal(batch, loader.local(batch.step, 0, 1))
    processes = [pid for pid, first, size in origin.begun() if first <= 20 < first + size]
    assert len(set(processes)) == 2


@pytest.mark.usefixtures("sent_by_value")
def test_a_slow_consumer_holds_the_tasks_back(store: Path, how: TokenisingConfig, tmp_path: Path) -> None:
    def steps_ahead(mib: float) -> int:
        origin = Watched(store, PLAN, how, 0, 1, log=tmp_path / f"log-{mib}")
        batches = stream(origin, 0, 20_000, StreamConfig(rows_per_task=1_200, prefetch_steps=100, prefetch_mib=mib))
        size = sum(array.nbytes for side in sides(next(batches)) for array in (side.ids, side.lengths))
        limit = 3 * mib * 2**20 / size
        seen, quiet = 0, 0
        while quiet < 4 and seen < limit:  # Until nothing was begun for two seconds.
            time.sleep(0.5)
            now = sum(steps for _, _, steps in origin.begun())
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

    assert most_spare(nodes, []) == 4
    assert most_spare(nodes, [group("CREATED", a=3.0), group("CREATED", a=0.5, b=1.5)]) == 0.5
    assert most_spare(nodes, [group("REMOVED", a=4.0)]) == 4
    assert most_spare([], []) == 0
    assert task_cpus() == 1.0


def test_rows_and_waiting_are_counted(store: Path, how: TokenisingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: dict[str, float] = {}

    def inc(counter: Counter, value: float) -> None:
        assert counter._default_tags == {"rank": "1"}
        counted[counter.info["name"]] = counted.get(counter.info["name"], 0) + value

    monkeypatch.setattr(Counter, "inc", inc)
    streamed(store, how, 1, 2, 0, 14)
    assert counted["hbt_stream_rows"] == 14 * 6
    assert 0 < counted["hbt_stream_wait_seconds"] < 60


@pytest.mark.parametrize("steps", [range(3, 4), range(5, 12)])
def test_a_block_holds_what_was_put_in(store: Path, how: TokenisingConfig, steps: range) -> None:
    made = Loader(store, PLAN, how).leg(steps, 0, 1)
    mined = [
        replace(batch, negatives=batch.passages.take(np.arange(number)), negative_keys=np.arange(number))
        for number, batch in enumerate(made)
    ]
    seen = [
        replace(
            batch,
            views={"a.ids": batch.passages, "b": batch.questions.take(np.arange(number))},
            teacher_scores=np.full((number, 3), np.float32(number)),
        )
        for number, batch in enumerate(made)
    ]
    for batches in (made, mined, seen):
        for ours, theirs in zip(unpack(pack(batches)), batches, strict=True):
            assert_equal(ours, theirs)
