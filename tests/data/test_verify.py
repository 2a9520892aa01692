"""Verify: whatever is done to a store is named, by file and by what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hbt_ray.data.store.verify import raise_for_problems, verify
from hbt_ray.errors import StoreError
from hbt_ray.storage import with_checksum, write_json
from tests.data.test_store import write_table, written

SHARD = "facts/00001.arrow"


def rewrite(root: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a shard, and its checksum in the manifest with it."""
    with pa.OSFile(str(root / SHARD)) as file:
        table = change(pa.ipc.open_file(file).read_all())
    about = write_table(root, SHARD, table.replace_schema_metadata(None), 9)
    edit(root, lambda info: info["shards"][1].update(about))


def edit(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = root / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest["datasets"][0])
    write_json(path, with_checksum(manifest))


def flip(root: Path) -> None:
    """One bit in the offsets of a column of texts."""
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


# What is done to a store of four shards of 64 items; items 0 to 69 have no German.
DAMAGE: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "a flipped bit": (flip, [f"{SHARD}: sha256: expected ", f"{SHARD}: content: expected an Arrow file, .*offset"]),
    "a cut shard": (cut, [f"{SHARD}: sha256", f"{SHARD}: content: expected an Arrow file, found none"]),
    "an empty shard": (lambda root: (root / SHARD).write_bytes(b""), [f"{SHARD}: sha256", f"{SHARD}: content"]),
    "a lost shard": (lambda root: (root / SHARD).unlink(), [f"{SHARD}: file: expected a shard, found none"]),
    "swapped shards": (
        swap,
        [
            f"{SHARD}: sha256: .* \\(that of facts/00002.arrow\\)",
            "facts/00002.arrow: sha256: .* \\(that of facts/00001",
        ],
    ),
    "another number of items in a shard": (
        lambda root: edit(root, lambda info: info["shards"][1].update(num_items=60)),
        [
            "manifest.json: items of dataset facts: expected 200 by its groups of languages, found 196 in its shards",
            f"{SHARD}: rows: expected 60, found 64",
        ],
    ),
    "another number of items in a group": (
        lambda root: edit(root, lambda info: groups(info, 70, 131)),
        ["manifest.json: items of dataset facts: expected 201 "],
    ),
    "groups that meet elsewhere": (
        lambda root: edit(root, lambda info: groups(info, 75, 125)),
        [f"{SHARD}: column {side}.de: expected nothing .* found 5 values" for side in ("question", "passage")],
    ),
    "a language that is not there": (
        lambda root: edit(root, lambda info: info["groups"][0].update(languages=["ar", "en", "fr"])),
        [f"facts/0000[01].arrow: column {side}.fr: expected there, found missing" for side in ("question", "passage")]
        * 2,
    ),
    "an extra column": (
        lambda root: rewrite(root, lambda table: table.append_column("notes", pa.array([""] * 64))),
        [f"{SHARD}: column notes: expected none of this name, found there"],
    ),
    "a lost column": (
        lambda root: rewrite(root, lambda table: table.drop_columns(["passage_key"])),
        [f"{SHARD}: column passage_key: expected there, found missing"],
    ),
    "a lost key": (
        lambda root: rewrite(root, lambda table: without(table, "passage_key", 3)),
        [f"{SHARD}: column passage_key: expected a value .* found 1 missing"],
    ),
    "a lost text": (
        lambda root: rewrite(root, lambda table: without(table, "question.ar", 60)),
        [f"{SHARD}: column question.ar: expected a value .* found 1 missing"],
    ),
    "a column of another type": (
        lambda root: rewrite(root, lambda table: table.set_column(0, "item_id", pa.array(range(64)))),
        [f"{SHARD}: type of column item_id: expected string, found int64"],
    ),
    "a lost row": (
        lambda root: rewrite(root, lambda table: table.slice(1)),
        [f"{SHARD}: rows: expected 64, found 63"],
    ),
}


@pytest.mark.parametrize("uri", [False, True], ids=["folder", "uri"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(tmp_path: Path, damage: str, uri: bool) -> None:
    root = tmp_path / "store"
    written(root, shard_items=64)
    location = root.as_uri() if uri else str(root)
    do, expected = DAMAGE[damage]
    do(root)
    verified = verify(location)
    told = [str(problem) for problem in verified.problems]
    for pattern in expected:
        assert any(re.match(pattern, line) for line in told), told
    if damage not in ("a language that is not there", "another number of items in a group"):
        assert len(told) == len(expected), told
    assert all("prepare the store again" in line for line in told)
    with pytest.raises(StoreError, match=f"{len(told)} problem"):
        raise_for_problems(location, verified)


def test_a_sound_store_has_no_problems(tmp_path: Path) -> None:
    written(tmp_path / "store", shard_items=64)
    done: list[int] = []
    num_bytes = sum(path.stat().st_size for path in (tmp_path / "store" / "facts").iterdir())
    for location in (str(tmp_path / "store"), (tmp_path / "store").as_uri()):
        verified = verify(location, done.append)
        assert verified == (4, 200, num_bytes, ())
        raise_for_problems(location, verified)
    assert sum(done) == 8
    with pytest.raises(StoreError, match="no store"):
        verify(str(tmp_path / "nowhere"))
