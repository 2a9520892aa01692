"""`verify` reports every kind of damage to a store, with the file and the property that differs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hbt_ray.data.store.verify import raise_for_problems, verify
from hbt_ray.errors import StoreError
from hbt_ray.storage import write_checked_json
from tests.data.test_store import write_store, write_table

SHARD = "facts/00001.arrow"


MANIFEST, ITEMS = "manifest.json", "items of dataset facts"


def rewrite(root: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a shard and its checksums in the manifest."""
    with pa.OSFile(str(root / SHARD)) as file:
        table = change(pa.ipc.open_file(file).read_all())
    checksums = write_table(root, SHARD, table.replace_schema_metadata(None), 9)
    edit(root, lambda info: info["shards"][1].update(checksums))


def edit(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = root / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest["datasets"][0])
    write_checked_json(path, manifest)


def flip(root: Path) -> None:
    """Flip one bit in the offsets of a column of texts."""
    with pa.memory_map(str(root / SHARD)) as file:
        content = bytearray(whole := file.read_buffer())
        file.seek(0)
        offsets = pa.ipc.open_file(file).get_batch(0)["question.en"].buffers()[1]
        content[offsets.address - whole.address + 4 * 2 + 2] ^= 1
        del offsets, whole
    (root / SHARD).write_bytes(content)


def swap(root: Path) -> None:
    first, second = root / "facts" / "00001.arrow", root / "facts" / "00002.arrow"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def cut(root: Path) -> None:
    (root / SHARD).write_bytes((root / SHARD).read_bytes()[:-1000])


def without(table: pa.Table, name: str, row: int) -> pa.Table:
    number = table.schema.get_field_index(name)
    values = table.column(name).to_pylist()
    values[row] = None
    return table.set_column(number, name, pa.array(values, table.schema.field(name).type))


def groups(info: dict[str, Any], *sizes: int) -> None:
    for group, size in zip(info["groups"], sizes, strict=True):
        group["num_items"] = size


# A store of four shards with 64 items each, whose items 0 to 69 have no German: name → (change, expected problems).
DAMAGE: dict[str, tuple[Callable[[Path], Any], list[tuple[str, str]]]] = {
    "flipped bit": (flip, [(SHARD, "sha256"), (SHARD, "content")]),
    "truncated shard": (cut, [(SHARD, "sha256"), (SHARD, "content")]),
    "empty shard": (lambda root: (root / SHARD).write_bytes(b""), [(SHARD, "sha256"), (SHARD, "content")]),
    "missing shard": (lambda root: (root / SHARD).unlink(), [(SHARD, "file")]),
    "exchanged shards": (swap, [(SHARD, "sha256"), ("facts/00002.arrow", "sha256")]),
    "other number of items in a shard": (
        lambda root: edit(root, lambda info: info["shards"][1].update(num_items=60)),
        [(MANIFEST, ITEMS), (SHARD, "rows")],
    ),
    "other number of items in a group": (
        lambda root: edit(root, lambda info: groups(info, 70, 131)),
        [(MANIFEST, ITEMS)],
    ),
    "other border between groups": (
        lambda root: edit(root, lambda info: groups(info, 75, 125)),
        [(SHARD, "column question.de"), (SHARD, "column passage.de")],
    ),
    "unknown language": (
        lambda root: edit(root, lambda info: info["groups"][0].update(languages=["ar", "en", "fr"])),
        [(f"facts/0000{shard}.arrow", f"column {side}.fr") for side in ("question", "passage") for shard in range(4)],
    ),
    "extra column": (
        lambda root: rewrite(root, lambda table: table.append_column("notes", pa.array([""] * 64))),
        [(SHARD, "column notes")],
    ),
    "missing column": (
        lambda root: rewrite(root, lambda table: table.drop_columns(["passage_key"])),
        [(SHARD, "column passage_key")],
    ),
    "missing key": (
        lambda root: rewrite(root, lambda table: without(table, "passage_key", 3)),
        [(SHARD, "column passage_key")],
    ),
    "missing text": (
        lambda root: rewrite(root, lambda table: without(table, "question.ar", 60)),
        [(SHARD, "column question.ar")],
    ),
    "column of another type": (
        lambda root: rewrite(root, lambda table: table.set_column(0, "item_id", pa.array(range(64)))),
        [(SHARD, "type of column item_id")],
    ),
    "missing row": (lambda root: rewrite(root, lambda table: table.slice(1)), [(SHARD, "rows")]),
}


@pytest.mark.parametrize("uri", [False, True], ids=["folder", "uri"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_reported(tmp_path: Path, damage: str, uri: bool) -> None:
    root = tmp_path / "store"
    write_store(root, shard_items=64)
    location = root.as_uri() if uri else str(root)
    change, expected = DAMAGE[damage]
    change(root)
    report = verify(location)
    assert sorted((problem.file, problem.subject) for problem in report.problems) == sorted(expected)
    assert all("prepare the store again" in str(problem) for problem in report.problems)
    if damage == "exchanged shards":
        assert "that of facts/00002.arrow" in report.problems[0].found
    with pytest.raises(StoreError) as caught:
        raise_for_problems(location, report)
    assert caught.value.code == "DAMAGED_STORE"


def test_an_undamaged_store_has_no_problems(tmp_path: Path) -> None:
    write_store(tmp_path / "store", shard_items=64)
    done: list[int] = []
    num_bytes = sum(path.stat().st_size for path in (tmp_path / "store" / "facts").iterdir())
    for location in (str(tmp_path / "store"), (tmp_path / "store").as_uri()):
        report = verify(location, done.append)
        assert report == (4, 200, num_bytes, ())
        raise_for_problems(location, report)
    assert sum(done) == 8
    with pytest.raises(StoreError) as caught:
        verify(str(tmp_path / "nowhere"))
    assert caught.value.code == "NO_STORE"
