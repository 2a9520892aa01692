"""The store: the same texts from one shard and from hundreds, near and far, without copying what nobody asked for."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hbt_ray.data.manifest import DatasetInfo, Group, Manifest, Shard
from hbt_ray.data.plan import Plan
from hbt_ray.data.policy import PlanConfig
from hbt_ray.data.store import Store
from hbt_ray.errors import StoreError

LANGUAGES = ("ar", "de", "en")
GROUPS = (Group(languages=("ar", "en"), num_items=70), Group(languages=LANGUAGES, num_items=130))


def text(side: str, language: str, number: int, length: int) -> str:
    return f"{side} {language} {number} ".ljust(length, "x")


def written(
    root: Path, *, shard_items: int, batch_items: int = 7, length: int = 40, groups: tuple[Group, ...] = GROUPS
) -> Store:
    """A store of one dataset, `facts`, whose texts tell their item; every third item has an answer in English."""
    has = [group.languages for group in groups for _ in range(group.num_items)]
    (root / "facts").mkdir(parents=True)
    shards = []
    for start in range(0, len(has), shard_items):
        numbers = range(start, min(start + shard_items, len(has)))
        columns = {
            "item_id": pa.array([f"i{n}" for n in numbers]),
            "passage_id": pa.array([f"p{n // 2}" for n in numbers]),
            "passage_key": pa.array([n // 2 for n in numbers], pa.int64()),
        }
        for language in LANGUAGES:
            for side in ("question", "passage"):
                values = [text(side, language, n, length) if language in has[n] else None for n in numbers]
                columns[f"{side}.{language}"] = pa.array(values, pa.string())
        columns["answer.en"] = pa.array([None if n % 3 else f"a{n}" for n in numbers], pa.string())
        table, path = pa.table(columns), root / "facts" / f"{len(shards):05d}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=batch_items)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        shards.append(Shard(file=f"facts/{path.name}", num_items=len(numbers), sha256=sha256))
    info = DatasetInfo(name="facts", groups=groups, shards=tuple(shards))
    (root / "manifest.json").write_text(Manifest(datasets=(info,)).model_dump_json())
    return Store(root)


@pytest.mark.parametrize(("shard_items", "batch_items"), [(200, 200), (200, 33), (64, 64), (13, 5), (1, 1)])
def test_any_layout_gives_the_same_texts(tmp_path: Path, shard_items: int, batch_items: int) -> None:
    store = written(tmp_path / "store", shard_items=shard_items, batch_items=batch_items)
    rng = np.random.default_rng(0)
    items, codes = rng.integers(0, 200, 500), rng.integers(0, 3, 500).astype(np.int16)
    has_german = items >= 70
    for side in ("question", "passage"):
        expected = [
            "" if LANGUAGES[code] == "de" and not german else text(side, LANGUAGES[code], item, 40)
            for item, code, german in zip(items, codes, has_german, strict=True)
        ]
        assert store.texts_of("facts", side, items, codes, LANGUAGES) == expected
    assert np.array_equal(store.passage_keys("facts", items), items // 2)
    answers = store.texts_of("facts", "answer", items, codes, LANGUAGES)
    assert answers == [
        f"a{item}" if LANGUAGES[code] == "en" and item % 3 == 0 else "" for item, code in zip(items, codes, strict=True)
    ]


@pytest.mark.parametrize("policy", ["mono", "cross", "mixed"])
def test_a_batch_reads_what_its_rows_name(tmp_path: Path, policy: str) -> None:
    store = written(tmp_path / "store", shard_items=13)
    plan = Plan(store.manifest, PlanConfig(policy=policy, batch_size=50))
    for step in range(4):
        batch = plan.batch(step)
        read = store.texts(batch, plan.languages)
        for side, texts, codes in (
            ("question", read.questions, batch.question_languages),
            ("passage", read.passages, batch.passage_languages),
        ):
            assert texts == [
                text(side, plan.languages[c], n, 40) for n, c in zip(batch.items.tolist(), codes, strict=True)
            ]
        assert np.array_equal(read.passage_keys, batch.items // 2)


def test_a_few_rows_of_many_shards_copy_no_column(tmp_path: Path) -> None:
    """`ChunkedArray.take` would join all chunks of every column that it reads: 400 KB each here, 2 MB a batch."""
    store = written(tmp_path / "store", shard_items=2, length=2_000)
    plan = Plan(store.manifest, PlanConfig(batch_size=16))
    default = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(default)
    pa.set_memory_pool(pool)
    try:
        for step in range(5):
            store.texts(plan.batch(step), plan.languages)
        assert list(store.sample_texts(("en",), limit=10))
    finally:
        pa.set_memory_pool(default)
    assert pool.max_memory() < 100_000


@pytest.mark.parametrize("shard_items", [200, 13])
def test_sampled_texts_are_evenly_spaced(tmp_path: Path, shard_items: int) -> None:
    store = written(tmp_path / "store", shard_items=shard_items)
    expected = [text(side, "de", n, 40) for side in ("question", "passage") for n in range(70, 200, 130 // 20)]
    assert list(store.sample_texts(("de",), limit=20)) == expected
    assert len(list(store.sample_texts(("fr", "ar", "de")))) == 2 * (200 + 130)


def test_a_text_that_the_manifest_promises_and_no_shard_has(tmp_path: Path) -> None:
    groups = (Group(languages=LANGUAGES, num_items=200),)
    written(tmp_path / "store", shard_items=13)
    manifest = Store(tmp_path / "store").manifest
    info = manifest.datasets[0].model_copy(update={"groups": groups})
    (tmp_path / "store" / "manifest.json").write_text(Manifest(datasets=(info,)).model_dump_json())
    store = Store(tmp_path / "store")
    plan = Plan(store.manifest, PlanConfig(policy="mono", batch_size=200, languages=("de",)))
    with pytest.raises(StoreError, match=r"facts/0000.\.arrow lacks values of question\.de .*hbt store verify"):
        store.texts(plan.batch(0), plan.languages)


def test_a_store_travels_to_other_processes(tmp_path: Path) -> None:
    store = written(tmp_path / "store", shard_items=50)
    copy = pickle.loads(pickle.dumps(store))
    assert copy.texts_of("facts", "question", np.array([3]), np.array([2], np.int16), LANGUAGES) == [
        text("question", "en", 3, 40)
    ]
