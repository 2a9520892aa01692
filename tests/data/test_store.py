"""`Store` returns the same texts for any layout of shards, locally and under a URI, and reads only what it needs."""

from __future__ import annotations

import io
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from babel import Locale
from numpy.typing import NDArray

from hbt_ray.data.index.manifest import DatasetInfo, LanguageGroup, Manifest, Shard
from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.data.plan.plan import Plan
from hbt_ray.data.store.node_cache import NodeCacheConfig
from hbt_ray.data.store.shard_checksums import write_shard
from hbt_ray.data.store.stats import compact, dataset_stats, dataset_table, language_table, sample_items
from hbt_ray.data.store.store import Store
from hbt_ray.data.store.verify import verify
from hbt_ray.data.stream.loader import Loader, LoaderConfig
from hbt_ray.data.stream.stream import StreamConfig, stream
from hbt_ray.errors import LocationError, StoreError
from hbt_ray.model.build import build_encoder, tokenising_config
from hbt_ray.model.config import ModelConfig
from hbt_ray.storage import file_sha256
from tests.small_data import small_run

LANGUAGES = ("ar", "de", "en")
GROUPS = (LanguageGroup(languages=("ar", "en"), num_items=70), LanguageGroup(languages=LANGUAGES, num_items=130))


def text(side: str, language: str, number: int, length: int) -> str:
    return f"{side} {language} {number} ".ljust(length, "x")


def cache_in(folder: Path) -> NodeCacheConfig:
    return NodeCacheConfig(folder=folder / "cache")


def write_table(root: Path, file: str, table: pa.Table, batch_items: int) -> dict[str, str]:
    """Write a shard. Returns its fields in the manifest."""
    with (root / file).open("wb") as sink:
        checksums = write_shard(sink, table.combine_chunks().to_batches(batch_items))
    return {"file": file, "sha256": file_sha256(root / file), "checksums": checksums}


def write_store(root: Path, *, shard_items: int, batch_items: int = 7, length: int = 40, name: str = "facts") -> Store:
    """A store of one dataset whose texts contain the item number; every third item has an answer in English."""
    has = [group.languages for group in GROUPS for _ in range(group.num_items)]
    (root / name).mkdir(parents=True)
    shards = []
    for start in range(0, len(has), shard_items):
        numbers = range(start, min(start + shard_items, len(has)))
        columns = {
            "item_id": pa.array([f"i{n}" for n in numbers]),
            "passage_id": pa.array([f"p{n // 2}" for n in numbers]),
            "passage_key": pa.array([n // 2 for n in numbers], pa.int64()),
            "right_keys": pa.array([[-n] if n % 5 else [] for n in numbers], pa.list_(pa.int64())),
        }
        for language in LANGUAGES:
            for side in ("question", "passage"):
                values = [text(side, language, n, length) if language in has[n] else None for n in numbers]
                columns[f"{side}.{language}"] = pa.array(values, pa.string())
        columns["answer.en"] = pa.array([None if n % 3 else f"a{n}" for n in numbers], pa.string())
        table, path = pa.table(columns), root / name / f"{len(shards):05d}.arrow"
        shards.append(Shard(num_items=len(numbers), **write_table(root, f"{name}/{path.name}", table, batch_items)))
    info = DatasetInfo(name=name, groups=GROUPS, shards=tuple(shards), max_right=2)
    (root / "manifest.json").write_bytes(Manifest(datasets=(info,)).to_json())
    return Store(root)


def positive_keys(items: NDArray[np.int64]) -> NDArray[np.int64]:
    """Right keys of the items of `write_store`: the own key, and for four of five items another one."""
    return np.column_stack([items // 2, np.where(items % 5, -items, items // 2)])


@pytest.mark.parametrize(("shard_items", "batch_items"), [(200, 200), (200, 33), (64, 64), (13, 5), (1, 1)])
def test_any_layout_gives_the_same_texts(tmp_path: Path, shard_items: int, batch_items: int) -> None:
    store = write_store(tmp_path / "store", shard_items=shard_items, batch_items=batch_items)
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
    assert np.array_equal(store.positive_keys("facts", items), positive_keys(items))
    answers = store.texts_of("facts", "answer", items, codes, LANGUAGES)
    assert answers == [
        f"a{item}" if LANGUAGES[code] == "en" and item % 3 == 0 else "" for item, code in zip(items, codes, strict=True)
    ]


@pytest.mark.parametrize("policy", ["mono", "cross", "mixed"])
def test_the_texts_of_a_batch_are_those_of_its_rows(tmp_path: Path, policy: str) -> None:
    store = write_store(tmp_path / "store", shard_items=13)
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
        assert np.array_equal(read.positive_keys, positive_keys(batch.items))


def test_reading_a_few_rows_of_many_shards_copies_no_column(tmp_path: Path) -> None:
    """`ChunkedArray.take` would join all chunks of every column that it reads: 400 KB each here, 2 MB a batch."""
    store = write_store(tmp_path / "store", shard_items=2, length=2_000)
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
    store = write_store(tmp_path / "store", shard_items=shard_items)
    expected = [text(side, "de", n, 40) for side in ("question", "passage") for n in range(70, 200, 130 // 20)]
    assert list(store.sample_texts(("de",), limit=20)) == expected
    assert len(list(store.sample_texts(("fr", "ar", "de")))) == 2 * (200 + 130)


def test_a_text_that_is_listed_but_missing_is_an_error(tmp_path: Path) -> None:
    groups = (LanguageGroup(languages=LANGUAGES, num_items=200),)
    write_store(tmp_path / "store", shard_items=13)
    manifest = Store(tmp_path / "store").manifest
    info = manifest.datasets[0].model_copy(update={"groups": groups})
    (tmp_path / "store" / "manifest.json").write_bytes(Manifest(datasets=(info,)).to_json())
    store = Store(tmp_path / "store")
    plan = Plan(store.manifest, PlanConfig(policy="mono", batch_size=200, languages=("de",)))
    with pytest.raises(StoreError) as caught:
        store.texts(plan.batch(0), plan.languages)
    assert caught.value.code == "MISSING_TEXT"
    assert "question.de" in str(caught.value)


def test_names_with_characters_that_uris_escape(tmp_path: Path) -> None:
    local = write_store(tmp_path / "my störe", shard_items=64, name="facts of today+")
    store = Store(local_uri(tmp_path / "my störe"), cache_in(tmp_path))
    assert store.item("facts of today+", 100) == local.item("facts of today+", 100)
    assert verify(store.location) == verify(local.location)
    assert verify(store.location).problems == ()
    assert dataset_stats(store.manifest, store.location) == dataset_stats(local.manifest, local.location)


def test_a_store_can_be_pickled(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", shard_items=50)
    copy = pickle.loads(pickle.dumps(store))
    assert copy.texts_of("facts", "question", np.array([3]), np.array([2], np.int16), LANGUAGES) == [
        text("question", "en", 3, 40)
    ]


@pytest.mark.parametrize(("shard_items", "batch_items"), [(200, 200), (64, 9)])
def test_a_store_under_a_uri_gives_the_same_texts(tmp_path: Path, shard_items: int, batch_items: int) -> None:
    local = write_store(tmp_path / "store", shard_items=shard_items, batch_items=batch_items)
    remote = Store(local_uri(tmp_path / "store"), cache_in(tmp_path))
    assert remote.manifest == local.manifest
    plan = Plan(local.manifest, PlanConfig(batch_size=30))
    for step in range(6):
        expected, actual = (store.texts(plan.batch(step), plan.languages) for store in (local, remote))
        assert (actual.questions, actual.passages) == (expected.questions, expected.passages)
        assert np.array_equal(actual.positive_keys, expected.positive_keys)
    items, codes = np.arange(200), np.full(200, 2, np.int16)
    for side in ("question", "passage", "answer"):
        assert remote.texts_of("facts", side, items, codes, LANGUAGES) == local.texts_of(
            "facts", side, items, codes, LANGUAGES
        )
    assert list(remote.sample_texts(LANGUAGES, 50)) == list(local.sample_texts(LANGUAGES, 50))
    again = pickle.loads(pickle.dumps(remote))
    shutil.rmtree(tmp_path / "store" / "facts")  # Everything is on this machine's disk now.
    assert np.array_equal(again.passage_keys("facts", items), items // 2)
    assert again.texts_of("facts", "question", items, codes, LANGUAGES)[3] == text("question", "en", 3, 40)


class CountingFile(io.RawIOBase):
    """A file that counts the bytes read from it."""

    num_bytes = 0

    def __init__(self, path: str) -> None:
        self._file = io.BytesIO(Path(path).read_bytes())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, *where: int) -> int:
        return self._file.seek(*where)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        CountingFile.num_bytes += len(content)
        return content


class FailingFileSystem:
    """A file system whose first `failures` requests fail, and whose files count the bytes read."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures

    def open_input_file(self, path: str) -> Any:
        if self.failures:
            self.failures -= 1
            raise OSError("AWS Error NETWORK_CONNECTION: curlCode: 28, Timeout was reached")
        return pa.PythonFile(CountingFile(path), mode="r")


def local_uri(path: Path) -> str:
    return path.as_uri()


def with_file_system(store: Store, storage: FailingFileSystem) -> Store:
    store._columns._system = storage  # type: ignore[attr-defined]
    return store


def test_only_the_needed_column_chunks_are_fetched(tmp_path: Path) -> None:
    write_store(tmp_path / "store", shard_items=200, batch_items=20, length=5_000)
    store = with_file_system(Store(local_uri(tmp_path / "store"), cache_in(tmp_path)), FailingFileSystem())
    store.passage_keys("facts", np.arange(5))
    CountingFile.num_bytes = 0
    chunk_bytes = 20 * 5_000
    assert store.texts_of("facts", "passage", np.arange(100, 110), np.full(10, 2, np.int16), LANGUAGES)
    assert chunk_bytes < CountingFile.num_bytes < 1.1 * chunk_bytes  # Of 200 rows in three languages and two sides.
    store.texts_of("facts", "passage", np.arange(110, 120), np.full(10, 2, np.int16), LANGUAGES)
    assert CountingFile.num_bytes < 1.1 * chunk_bytes
    store.texts_of("facts", "passage", np.arange(120, 121), np.full(1, 2, np.int16), LANGUAGES)
    assert 2 * chunk_bytes < CountingFile.num_bytes < 2.2 * chunk_bytes


def test_temporary_errors_are_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("hbt_ray.storage.object_store.time.sleep", slept.append)
    write_store(tmp_path / "store", shard_items=200)
    store = with_file_system(Store(local_uri(tmp_path / "store"), cache_in(tmp_path)), FailingFileSystem(failures=3))
    assert store.passage_keys("facts", np.array([8])).tolist() == [4]
    assert slept == [0.5, 2.0, 8.0]
    store = with_file_system(Store(local_uri(tmp_path / "store"), cache_in(tmp_path)), FailingFileSystem(failures=4))
    with pytest.raises(StoreError) as caught:
        store.texts_of("facts", "passage", np.array([8]), np.array([2], np.int16), LANGUAGES)
    assert caught.value.code == "UNREACHABLE"
    assert "00000.arrow" in str(caught.value)
    assert "AWS Error" in str(caught.value)


def test_missing_and_damaged_files_under_a_uri_are_named(tmp_path: Path) -> None:
    write_store(tmp_path / "store", shard_items=50)
    store = Store(local_uri(tmp_path / "store"), cache_in(tmp_path))
    (tmp_path / "store" / "facts" / "00001.arrow").unlink()
    (tmp_path / "store" / "facts" / "00002.arrow").write_text("no shard")
    for item, code, file in ((60, "MISSING_SHARD", "00001.arrow"), (130, "DAMAGED_SHARD", "00002.arrow")):
        with pytest.raises(StoreError) as caught:
            store.passage_keys("facts", np.array([item]))
        assert caught.value.code == code
        assert file in str(caught.value)
    with pytest.raises(StoreError) as caught:
        Store(local_uri(tmp_path / "nowhere"))
    assert caught.value.code == "NO_STORE"
    with pytest.raises(LocationError) as location_error:
        Store("gopher://x/y")
    assert location_error.value.code == "INVALID_LOCATION"


def test_another_store_under_the_same_uri_does_not_get_cached_texts_of_the_first(tmp_path: Path) -> None:
    read = []
    for length in (40, 60):
        write_store(tmp_path / "store", shard_items=200, length=length)
        store = Store(local_uri(tmp_path / "store"), cache_in(tmp_path))
        read += store.texts_of("facts", "question", np.array([5]), np.array([2], np.int16), LANGUAGES)
        shutil.rmtree(tmp_path / "store")
    assert [len(question) for question in read] == [40, 60]


def test_a_loader_works_with_a_cache_smaller_than_the_store(tmp_path: Path) -> None:
    write_store(tmp_path / "store", shard_items=64, batch_items=8, length=200)
    config = ModelConfig(layers=1, width=32, heads=2, vocabulary=300, max_question_length=12, max_passage_length=12)
    local = Store(tmp_path / "store")
    tokenising = tokenising_config(build_encoder(config, local.sample_texts(LANGUAGES)), config)
    cache = NodeCacheConfig(folder=tmp_path / "cache", max_gib=50_000 / 2**30)
    plan = PlanConfig(batch_size=24)
    far, here = (
        Loader(LoaderConfig(local_uri(tmp_path / "store"), plan, tokenising, cache)),
        Loader(LoaderConfig(tmp_path / "store", plan, tokenising)),
    )
    for step in range(20):
        actual, expected = far.rank_batch(step, 0, 2), here.rank_batch(step, 0, 2)
        assert np.array_equal(actual.texts["questions"].flat_ids(), expected.texts["questions"].flat_ids())
        assert np.array_equal(actual.texts["passages"].flat_ids(), expected.texts["passages"].flat_ids())
        assert sum(path.stat().st_size for path in cache.root.glob("*.arrow")) <= 50_000


@pytest.mark.integration
@pytest.mark.usefixtures("ray_session")
def test_all_tasks_of_a_node_share_one_cache(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", shard_items=64, batch_items=8)
    config = ModelConfig(layers=1, width=32, heads=2, vocabulary=300, max_question_length=12, max_passage_length=12)
    tokenising = tokenising_config(build_encoder(config, store.sample_texts(LANGUAGES)), config)
    plan, settings, cache = PlanConfig(batch_size=24), StreamConfig(rows_per_task=24), cache_in(tmp_path)
    here = [
        list(stream(LoaderConfig(store.location, plan, tokenising), range(6), rank, 2, settings)) for rank in range(2)
    ]
    uri = local_uri(tmp_path / "store")
    far = [list(stream(LoaderConfig(uri, plan, tokenising, cache), range(6), rank, 2, settings)) for rank in range(2)]
    for actual, expected in zip([*far[0], *far[1]], [*here[0], *here[1]], strict=True):
        assert np.array_equal(actual.texts["questions"].flat_ids(), expected.texts["questions"].flat_ids())
        assert np.array_equal(actual.texts["passages"].flat_ids(), expected.texts["passages"].flat_ids())
    assert list(cache.root.glob("*.arrow"))


def test_a_uri_stays_as_it_is_in_a_run_configuration(tmp_path: Path) -> None:
    config = small_run(tmp_path, "store=s3://bucket/store", "stream.cache.folder=near")
    assert config.absolute().store == "s3://bucket/store"
    assert config.absolute().stream.cache.root.is_absolute()
    assert small_run(tmp_path, "store=here").absolute().store == str(Path("here").absolute())


def test_whole_items_are_read(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", shard_items=13)
    item = store.item("facts", 69)
    assert (item.item_id, item.passage_id) == ("i69", "p34")
    assert set(item.texts) == {"ar", "en"}
    assert item.texts["en"] == {
        "question": text("question", "en", 69, 40),
        "passage": text("passage", "en", 69, 40),
        "answer": "a69",
    }
    assert {chunk_bytes.item_id for chunk_bytes in sample_items(store, 200)} == {f"i{n}" for n in range(200)}
    assert len(sample_items(store, 300)) == 200


def test_statistics_count_items_rows_and_bytes(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", shard_items=64)
    num_bytes = sum(path.stat().st_size for path in (tmp_path / "store" / "facts").iterdir())
    for location in (store.location, local_uri(tmp_path / "store")):
        (chunk_bytes,) = dataset_stats(store.manifest, location)
        assert (chunk_bytes.items, chunk_bytes.rows, chunk_bytes.shards, chunk_bytes.bytes) == (200, 530, 4, num_bytes)
        assert list(chunk_bytes.languages.items()) == [("ar", 200), ("en", 200), ("de", 130)]
    (tmp_path / "store" / "facts" / "00001.arrow").unlink()
    assert dataset_stats(store.manifest, store.location)[0].bytes is None


def many_languages() -> Manifest:
    tags = sorted(tag for tag in Locale("en").languages if len(tag) == 2)[:128]
    infos = tuple(
        DatasetInfo(
            name=f"set <{number}>",
            groups=tuple(
                LanguageGroup(languages=(tag,), num_items=10 ** (n % 7)) for n, tag in enumerate(tags[number:])
            ),
            shards=(),
        )
        for number in range(20)
    )
    return Manifest(datasets=infos)


def test_tables_of_many_languages_and_datasets_stay_small() -> None:
    datasets = dataset_stats(many_languages(), "nowhere")
    table = language_table(datasets)
    assert (table.row_count, len(table.columns)) == (21, 1 + 8 + 2)
    assert dataset_table(datasets).row_count == 21


@pytest.mark.parametrize(
    ("number", "short"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1k"),
        (12_345, "12.3k"),
        (99_949, "99.9k"),
        (99_950, "100k"),
        (2_500_000, "2.5M"),
    ],
)
def test_counts_are_short(number: int, short: str) -> None:
    assert compact(number) == short
