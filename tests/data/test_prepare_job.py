"""The job of `prepare`: for any number of buckets, executor, kill and restart the store is the same."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_ray.data.index.permutation import make_key
from hbt_ray.data.prepare import PrepareResult, StoreConfig, in_process, on_ray, prepare
from hbt_ray.data.prepare.config import _BUCKET_BYTES
from hbt_ray.data.prepare.group import text_key
from hbt_ray.data.prepare.task_runner import WORK_FOLDER, Executor, Task, TaskResult
from hbt_ray.data.prepare.write import language_groups, shard_slices
from hbt_ray.data.sources.file_sources import TableSource
from hbt_ray.data.store.verify import verify
from hbt_ray.errors import LockedError, SourceError, StorageError, StoreError
from hbt_ray.storage import exclusive_lock
from tests.disks import resize, small_disk

CONFIG_MODULE = "hbt_ray.data.prepare.config."


def row(item: str, language: str, text: str = "", **more: str) -> dict[str, str]:
    text = text or f"{item} {language}"
    return {"item_id": item, "language": language, "question": f"q {text}", "passage": f"p {text}", **more}


ROWS = [
    row(f"i{n}", language, dataset=f"set{n % 3}", passage_id=f"d{n // 2}", answer=f"a{n}" if n % 3 else "")
    for n in range(80)
    for language in (("de", "en", "ar"), ("en",), ("de", "zh"))[n % 5 % 3]
] + [row("copy", "en", "i0 en", dataset="set0"), row("i1", "en", "again", dataset="set1"), row("bad", "klingon")]
EVALUATION = [row("x", "en", "i11 en"), row("y", "ar", "i3 ar")]


def write(path: Path, rows: list[dict[str, str]]) -> str:
    columns = {key: "" for record in rows for key in record}
    path.write_text("".join(json.dumps({**columns, **record}) + "\n" for record in rows), encoding="utf-8")
    return str(path)


def store_config(folder: Path, rows: list[dict[str, str]] = ROWS, name: str = "store", **more: Any) -> StoreConfig:
    folder.mkdir(exist_ok=True)
    columns = {use: use for use in ("dataset", "passage_id", "answer") if any(use in record for record in rows)}
    halves = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    sources = [
        {"kind": "table", "name": f"s{n}", "path": write(folder / f"s{n}.jsonl", half), "columns": columns}
        for n, half in enumerate(halves)
        if half
    ]
    evaluation = {"kind": "table", "name": "test", "path": write(folder / "test.jsonl", EVALUATION)}
    values = {"sources": sources, "decontaminate": [evaluation], "shard_items": 7, "max_rejected": 1, **more}
    return StoreConfig.make({"path": str(folder / name), **values}, "test")


def contents(path: str) -> dict[str, bytes]:
    """Every file of a store, without the fingerprint of its sources in the manifest."""
    files = {str(file.relative_to(path)): file.read_bytes() for file in Path(path).rglob("*") if file.is_file()}
    manifest = json.loads(files["manifest.json"])
    del manifest["spec"], manifest["checksum"]
    return {**files, "manifest.json": json.dumps(manifest).encode()}


def stored(path: str) -> Counter[tuple[str, ...]]:
    """(dataset, item, language, question, passage, answer) of every row of a store."""
    stored_rows: Counter[tuple[str, ...]] = Counter()
    for file in Path(path).glob("*/*.arrow"):
        for item in pa.ipc.open_file(file).read_all().to_pylist():
            for column, question in item.items():
                side, _, language = column.partition(".")
                if side == "question" and question is not None:
                    texts = (question, item[f"passage.{language}"], item.get(f"answer.{language}") or "")
                    stored_rows[file.parent.name, item["item_id"], language, *texts] += 1
    return stored_rows


@pytest.fixture
def many_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CONFIG_MODULE + "_BUCKET_BYTES", 512)
    monkeypatch.setattr("hbt_ray.data.prepare.pipeline._BUCKETS_PER_SHARE", 8)
    monkeypatch.setattr("hbt_ray.data.prepare.read._MAX_ROWS", 20)


def test_the_store_does_not_depend_on_the_number_of_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [store_config(tmp_path, name=f"store{size}") for size in (_BUCKET_BYTES, 4_096, 256)]
    numbers, results = [], []
    for config, size in zip(configs, (_BUCKET_BYTES, 4_096, 256), strict=True):
        monkeypatch.setattr(CONFIG_MODULE + "_BUCKET_BYTES", size)
        numbers.append(config.num_buckets())
        results.append(prepare(config))
    assert numbers == [1, 8, 128]
    assert results[0].manifest.datasets == results[1].manifest.datasets == results[2].manifest.datasets
    for side in ("rejected.jsonl", "removed.jsonl"):
        lines = [sorted((Path(config.path) / side).read_text().splitlines()) for config in configs]
        assert lines[0] == lines[1] == lines[2]


@pytest.mark.usefixtures("many_buckets")
def test_every_row_is_kept_rejected_or_removed(tmp_path: Path) -> None:
    config = store_config(tmp_path)
    prepared = prepare(config)
    assert prepared.rejected == {"language is no BCP-47 tag": 1, "item has this language already": 1}
    # Items 11 (one row) and 3 (three rows, found by its Arabic) overlap; `copy` says what the wider item 0 does.
    assert prepared.overlapping == {"set2": 1, "set0": 3}
    assert prepared.duplicates == {"set0": 1}
    assert prepared.num_read == len(ROWS) == prepared.num_kept + 2 + 4 + 1
    gone = {("set0", "copy"), ("set2", "i11"), ("set0", "i3")}
    kept = [record for record in ROWS[:-2] if (record["dataset"], record["item_id"]) not in gone]
    names = ("dataset", "item_id", "language", "question", "passage", "answer")
    assert stored(config.path) == Counter(tuple(record[name] for name in names) for record in kept)
    removed = [json.loads(line) for line in (tmp_path / "store" / "removed.jsonl").read_text().splitlines()]
    assert {(record["dataset"], record["item_id"], record["language"], record["num_rows"]) for record in removed} == {
        ("set2", "i11", "en", 1), ("set0", "i3", "ar", 3), ("set0", "copy", "en", 1)
    }  # fmt: skip
    assert not (tmp_path / "store" / ".prepare").exists()


def test_the_item_with_most_languages_keeps_a_duplicated_text(tmp_path: Path) -> None:
    rows = [
        row("a", "en", "same"),
        row("b", "en", "SAME "),
        row("b", "de"),
        row("c", "de", "same"),
        row("d", "en", "sa me"),
    ]
    config = store_config(tmp_path, rows, decontaminate=[])
    prepared = prepare(config)
    assert prepared.duplicates.total() == 1
    assert {(item, language) for _, item, language, *_ in stored(config.path)} == {
        ("b", "en"), ("b", "de"), ("c", "de"), ("d", "en")
    }  # fmt: skip
    kept = prepare(store_config(tmp_path, rows, name="all", decontaminate=[], deduplicate=False))
    assert kept.num_kept == 5
    assert text_key("en", "ﬁne  Day", "x") == text_key("en", "Fine day", "X") != text_key("de", "Fine day", "X")


@pytest.mark.integration
@pytest.mark.usefixtures("many_buckets")
def test_a_ray_job_writes_the_same_bytes(tmp_path: Path, ray_session: None) -> None:
    here, there = store_config(tmp_path), store_config(tmp_path, name="ray")
    assert prepare(here).manifest.datasets == prepare(there, on_ray).manifest.datasets
    assert contents(here.path) == contents(there.path)


@pytest.mark.usefixtures("many_buckets")
def test_a_store_can_be_prepared_under_a_uri(tmp_path: Path) -> None:
    here, there = store_config(tmp_path), store_config(tmp_path)
    uri = there.model_copy(update={"path": f"file://{tmp_path}/uri%20store"})
    assert prepare(here).manifest.datasets == prepare(uri).manifest.datasets
    assert contents(here.path) == contents(str(tmp_path / "uri store"))
    assert prepare(uri).already_existed
    assert not verify(uri.path).problems


class Killed(BaseException):
    """Ends `prepare` as a kill would: no code catches it."""


def killed_after(count: list[int]) -> Executor:
    """An executor that raises `Killed` after `count[0]` tasks of all stages together."""

    def spread(tasks: list[Task]) -> Iterator[TaskResult]:
        for result in in_process(tasks):
            count[0] -= 1
            if count[0] < 0:
                raise Killed
            yield result

    return spread


@pytest.mark.usefixtures("many_buckets")
def test_a_job_killed_after_any_task_continues_to_the_same_store(tmp_path: Path) -> None:
    config = store_config(tmp_path, shard_items=3)
    prepare(config)
    wanted, killed, attempts = contents(config.path), store_config(tmp_path, name="killed", shard_items=3), 0
    while not (tmp_path / "killed" / "manifest.json").exists():
        attempts += 1
        try:
            # Three tasks are recorded. The fourth is done, but the job is killed before it receives the result.
            result = prepare(killed, killed_after([3]))
        except Killed:
            assert not (tmp_path / "killed" / "manifest.json").exists()
    assert attempts > 20
    assert contents(killed.path) == wanted
    assert result.num_read == len(ROWS)
    assert prepare(killed).already_existed


@pytest.mark.usefixtures("many_buckets")
def test_only_a_changed_source_is_read_again(tmp_path: Path) -> None:
    config = store_config(tmp_path)
    with pytest.raises(Killed):
        prepare(config, killed_after([2]))
    sources = (config.sources[0], config.sources[1].model_copy(update={"name": "other"}))
    other = config.model_copy(update={"max_rejected": 0.5, "sources": sources})
    todo: list[int] = []

    def counting(tasks: list[Task]) -> Iterator[TaskResult]:
        todo.append(len(tasks))
        return in_process(tasks)

    result = prepare(other, counting)
    assert todo[0] == 1
    assert {source for info in result.manifest.datasets for source in info.sources} == {"s0", "other"}


def test_a_second_command_on_the_same_store_is_refused(tmp_path: Path) -> None:
    config = store_config(tmp_path)
    with exclusive_lock(tmp_path / "store" / WORK_FOLDER, "hbt prepare"):
        command = "import sys; from tests.data.test_prepare_job import prepare_refused; prepare_refused(sys.argv[1])"
        subprocess.run([sys.executable, "-c", command, str(tmp_path)], check=True, timeout=120)
    assert prepare(config).num_kept


def prepare_refused(folder: str) -> None:
    """Run the second command and check that it is prepare_refused."""
    with pytest.raises(LockedError):
        prepare(store_config(Path(folder)))


def half_prepared(config: StoreConfig) -> Path:
    """Prepare a store and kill the job after its first shards. Returns its folder."""

    def killed_while_writing(tasks: list[Task]) -> Iterator[TaskResult]:
        for number, result in enumerate(in_process(tasks)):
            if "/write/" in result["key"] and number == 3:
                raise Killed
            yield result

    with pytest.raises(Killed):
        prepare(config, killed_while_writing)
    assert not (Path(config.path) / "manifest.json").exists()
    return Path(config.path)


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_shards_of_other_settings_are_deleted_and_foreign_files_stay(tmp_path: Path) -> None:
    config = store_config(tmp_path, shard_items=3)
    root, others = half_prepared(config), tmp_path / "others"
    assert (stale := list(root.glob("set0/*.arrow")))
    foreign = [root / "set0" / "notes.txt", root / "set0" / "99999.arrow", root / "mine" / "thesis.tex", root / "a.txt"]
    others.mkdir()
    for path in (*foreign, others / "00000.arrow", others / "data"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("years of work")
    (root / "linked").symlink_to(others)
    (root / WORK_FOLDER / "linked").symlink_to(others)
    result = prepare(config.model_copy(update={"shard_items": 1000, "max_rejected": 0.5}))
    assert result.num_kept
    assert not (root / WORK_FOLDER).exists()
    assert sum(path.exists() for path in stale) <= 1  # The new shard may have the name of an old one.
    assert [path.read_text() for path in foreign] == ["years of work"] * 4
    assert listing(others) == {"00000.arrow": b"years of work", "data": b"years of work"}
    assert not verify(config.path).problems


@pytest.mark.parametrize("uri", [False, True])
@pytest.mark.parametrize("kind", ["link to files", "link to nothing", "folder", "file"])
def test_a_foreign_work_folder_is_not_changed(tmp_path: Path, kind: str, uri: bool) -> None:
    config, outside, work = store_config(tmp_path), tmp_path / "outside", tmp_path / "store" / WORK_FOLDER
    if uri:
        config = config.model_copy(update={"path": (tmp_path / "store").as_uri()})
    outside.mkdir()
    work.parent.mkdir()
    if kind == "link to nothing":
        work.symlink_to(tmp_path / "nowhere")
    elif kind == "file":
        work.write_text("mine")
    else:
        work.symlink_to(outside) if kind == "link to files" else work.mkdir()
        (work / "thesis.tex").write_text("mine")
        (work / "lock").write_text("")
    before = listing(tmp_path), os.path.islink(work)
    with pytest.raises(StoreError) as caught:
        prepare(config)
    assert caught.value.code == "NOT_A_STORE"
    assert (listing(tmp_path), os.path.islink(work)) == before


def test_shards_are_not_written_through_a_link(tmp_path: Path) -> None:
    config, outside = store_config(tmp_path, shard_items=3), tmp_path / "outside"
    root = half_prepared(config)
    shutil.move(root / "set0", outside)
    (root / "set0").symlink_to(outside)
    for path in outside.iterdir():
        path.write_text("mine")
    before = listing(outside)
    with pytest.raises(StoreError) as caught:
        prepare(config)
    assert caught.value.code == "NOT_A_STORE"
    assert listing(outside) == before
    (root / "set0").unlink()
    assert prepare(config).num_kept


def test_an_empty_folder_stays_empty_if_the_sources_are_invalid(tmp_path: Path) -> None:
    config = store_config(tmp_path)
    for path in tmp_path.glob("*.jsonl"):
        path.write_text("")
    with pytest.raises(SourceError):
        prepare(config)
    assert not (tmp_path / "store").exists()
    (tmp_path / "store").mkdir()
    with pytest.raises(SourceError):
        prepare(config)
    assert os.listdir(tmp_path / "store") == []


@pytest.mark.integration
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "lose"])
@pytest.mark.usefixtures("many_buckets")
def test_damaged_intermediate_files_are_written_again(tmp_path: Path, damage: str) -> None:
    config = store_config(tmp_path, shard_items=3)
    prepare(config)
    wanted, broken = contents(config.path), store_config(tmp_path, name="broken", shard_items=3)
    half_prepared(broken)
    rng = random.Random(damage)
    files = sorted(path for path in Path(broken.path).rglob("*") if path.is_file() and path.name != "about.txt")
    for path in rng.sample(files, len(files) // 4):
        content = bytearray(path.read_bytes())
        if damage == "flip" and content:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        if damage == "lose":
            path.unlink()
        else:
            path.write_bytes({"flip": content, "cut": content[: len(content) // 2], "empty": b""}[damage])
    prepare(broken)
    assert contents(broken.path) == wanted


@pytest.mark.integration
@pytest.mark.parametrize("spread", [in_process, on_ray])
def test_the_same_command_continues_after_a_full_disk(tmp_path: Path, spread: Executor, ray_session: None) -> None:
    config = store_config(tmp_path, rows=[row(f"i{n}", "en", f"{n} " * 500) for n in range(300)], decontaminate=[])
    store, before = tmp_path / "store", {}
    with small_disk(store, "256k"):
        with pytest.raises(StorageError) as caught:
            prepare(config, spread)
        assert str(store) in caught.value.path
        assert not list(store.rglob("*.part"))
        before = listing(store)
        assert not {name for name in before if not name.startswith(WORK_FOLDER)}
        resize(store, "64m")
        assert prepare(config, spread).num_kept == 300
        assert not verify(config.path).problems


def test_a_parquet_file_is_split_at_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(f"i{n}", "en") for n in range(95)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=10)
    source = TableSource(kind="table", name="t", path=str(tmp_path / "t.parquet"))
    whole = list(source.rows())
    monkeypatch.setattr("hbt_ray.data.formats.records._PART_ROWS", 30)
    parts = source.parts()
    assert [len(list(part.rows())) for part in parts] == [30, 30, 30, 5]
    assert [record for part in parts for record in part.rows()] == whole


GROUPS = st.dictionaries(st.sampled_from([("de",), ("en",), ("de", "en"), ("ar", "de")]), st.integers(1, 9), max_size=4)


@given(st.lists(GROUPS, min_size=1, max_size=5), st.integers(1, 12))
def test_shards_contain_the_groups_in_order(buckets: list[dict[tuple[str, ...], int]], shard_items: int) -> None:
    held = [
        [(languages, number, n) for languages in sorted(groups) for n in range(groups[languages])]
        for number, groups in enumerate(buckets)
    ]
    shards = [
        [item for part in slices for item in held[part.bucket][part.start : part.start + part.num_items]]
        for slices in shard_slices(buckets, shard_items)
    ]
    flat = [item for shard in shards for item in shard]
    assert flat == sorted(item for bucket in held for item in bucket)
    assert all(len(shard) == shard_items for shard in shards[:-1])
    assert sum(group.num_items for group in language_groups(buckets)) == len(flat)


ITEMS = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from(["de", "en", "ar"]), st.sampled_from(["", "x", "X ", "y"])),
    min_size=1,
    max_size=30,
)


@settings(max_examples=40, deadline=None)
@given(ITEMS, st.booleans())
def test_random_rows_agree_with_a_plain_implementation(drawn: list[tuple[str, str, str]], deduplicate: bool) -> None:
    rows = [{**row(item, language, text or "-"), "dataset": "set"} for item, language, text in drawn]
    rows = [record if text else {**record, "passage": " "} for record, (_, _, text) in zip(rows, drawn, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        config = store_config(Path(folder), rows, decontaminate=[], deduplicate=deduplicate)
        result: PrepareResult = prepare(config)
        stored_rows = stored(config.path)
    expected = plain_prepare(drawn, deduplicate)
    assert {(item, language): passage for _, item, language, _, passage, _ in stored_rows} == expected
    assert result.num_read == len(rows) == result.num_kept + result.rejected.total() + result.duplicates.total()
    assert result.num_kept == len(expected) == stored_rows.total()


def plain_prepare(drawn: list[tuple[str, str, str]], deduplicate: bool) -> dict[tuple[str, str], str]:
    """(item, language) → passage."""
    kept: dict[tuple[str, str], str] = {}
    for item, language, text in drawn:
        if text:
            kept.setdefault((item, language), f"p {text}")
    breadth = Counter(item for item, _ in kept)
    holders: dict[tuple[str, str], list[str]] = {}
    for (item, language), passage in kept.items():
        holders.setdefault((language, passage.lower().strip()), []).append(item)
    for (language, _), items in holders.items() if deduplicate else ():
        for loser in sorted(items, key=lambda item: (-breadth[item], make_key(0, "set", item)))[1:]:
            del kept[loser, language]
    return kept
