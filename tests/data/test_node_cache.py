"""`NodeCache`: bounded, shared by processes, and robust against damage, crashes and full disks."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from hbt_ray.data.store.node_cache import NodeCache, NodeCacheConfig
from hbt_ray.errors import StoreError

KIB = 1 / 2**20
"""One KiB in GiB."""


def content(number: int, length: int = 1_000) -> pa.Buffer:
    batch = pa.record_batch({"text": [f"{number} ".ljust(length, "x")]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def text(batches: list[pa.RecordBatch]) -> str:
    (batch,) = batches
    return str(batch.column(0)[0].as_py()).rstrip("x ")


def sizes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.glob("*.arrow")]


def test_fetched_content_is_read_from_the_disk(tmp_path: Path) -> None:
    first, second = NodeCache(NodeCacheConfig(folder=tmp_path)), NodeCache(NodeCacheConfig(folder=tmp_path))
    assert text(first.get(("a", 0), lambda: content(7))) == "7"
    for cache in (first, second):
        assert text(cache.get(("a", 0), lambda: pytest.fail("fetched again"))) == "7"
    assert text(second.get(("a", 1), lambda: content(8))) == "8"
    assert (first.hits, first.misses, second.hits, second.misses) == (1, 1, 1, 1)


def test_the_least_recently_used_files_are_evicted_before_the_bound_is_exceeded(tmp_path: Path) -> None:
    cache = NodeCache(NodeCacheConfig(folder=tmp_path, max_gib=16 * KIB))
    held = cache.get((0,), lambda: content(0))
    for number in range(1, 100):
        cache.get((number,), lambda: content(number))  # noqa: B023 - called at once
        assert sum(sizes(tmp_path)) <= 16 * 1024
        for path in tmp_path.glob("*.arrow"):  # Time passes, and only 50 is used again and again.
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10**9))
        if number >= 50:
            cache.get((50,), lambda: pytest.fail("evicted though used"))
    assert sum(sizes(tmp_path)) > 10 * 1024
    cache.get((99,), lambda: pytest.fail("evicted though new"))
    assert text(held) == "0"  # Evicted long ago, still mapped here.
    with pytest.raises(ZeroDivisionError):
        cache.get((0,), lambda: 1 / 0)  # type: ignore[arg-type, return-value]


def test_content_larger_than_the_bound_is_not_kept(tmp_path: Path) -> None:
    cache = NodeCache(NodeCacheConfig(folder=tmp_path, max_gib=1 * KIB))
    assert text(cache.get((0,), lambda: content(3, length=5_000))) == "3"
    assert sizes(tmp_path) == []


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b"", lambda b: bytes(len(b)), lambda b: b[100:]])
def test_a_damaged_file_is_fetched_again(tmp_path: Path, damage: object) -> None:
    cache = NodeCache(NodeCacheConfig(folder=tmp_path))
    cache.get((0,), lambda: content(1))
    (path,) = tmp_path.glob("*.arrow")
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert text(cache.get((0,), lambda: content(2))) == "2"
    assert text(cache.get((0,), lambda: pytest.fail("fetched again"))) == "2"
    assert cache.misses == 2


def test_a_damaged_ledger_and_files_of_a_crash_are_repaired(tmp_path: Path) -> None:
    cache = NodeCache(NodeCacheConfig(folder=tmp_path, max_gib=16 * KIB))
    for number in range(8):
        cache.get((number,), lambda: content(number))  # noqa: B023 - called at once
    for ledger in ("", "-5 apples", str(10**9)):
        (tmp_path / "size").write_text(ledger)
        (tmp_path / "0123.partial").write_bytes(b"x" * 20_000)
        cache.get((ledger,), lambda: content(1))
        assert int((tmp_path / "size").read_text()) == sum(sizes(tmp_path)) <= 16 * 1024
        assert not list(tmp_path.glob("*.partial"))


def test_many_threads_and_processes_share_a_small_cache(tmp_path: Path) -> None:
    """Twelve readers of 40 keys with space for about 12: all read the right content within the bound."""
    script = f"""
import random, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from hbt_ray.data.store.node_cache import NodeCache, NodeCacheConfig
from tests.data.test_node_cache import content, sizes, text
cache = NodeCache(NodeCacheConfig(folder=Path({str(tmp_path)!r}), max_gib={16 * KIB}))
def work(seed):
    rng = random.Random(seed)
    for _ in range(100):
        number = rng.randrange(40)
        assert text(cache.get((number,), lambda: content(number))) == str(number)
with ThreadPoolExecutor(4) as pool:
    list(pool.map(work, range(int(sys.argv[1]), int(sys.argv[1]) + 4)))
"""
    readers = [subprocess.Popen([sys.executable, "-c", script, str(seed)]) for seed in (0, 10, 20)]
    largest = 0
    while any(reader.poll() is None for reader in readers):
        try:
            largest = max(largest, sum(sizes(tmp_path)))
        except FileNotFoundError:  # Evicted between being listed and being asked for its size.
            continue
    assert [reader.returncode for reader in readers] == [0, 0, 0]
    assert 0 < largest <= 16 * 1024
    assert int((tmp_path / "size").read_text()) == sum(sizes(tmp_path))


def test_content_is_fetched_once_for_concurrent_readers(tmp_path: Path) -> None:
    caches = [NodeCache(NodeCacheConfig(folder=tmp_path)) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda cache: text(cache.get((0,), lambda: content(5))), caches))
    assert read == ["5"] * 8
    assert sum(cache.misses for cache in caches) == 1


def test_a_full_disk_is_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = NodeCache(NodeCacheConfig(folder=tmp_path))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    for _ in range(2):
        assert text(cache.get((0,), lambda: content(4))) == "4"
    assert cache.misses == 2


def test_an_unusable_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as caught:
        NodeCache(NodeCacheConfig(folder=tmp_path / "file" / "cache"))
    assert caught.value.code == "CACHE_FOLDER"


def test_the_default_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert NodeCacheConfig().root == Path("/somewhere/hbt_ray")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert NodeCacheConfig().root == Path("/home/me/.cache/hbt_ray")
