"""The metrics file: one row a step, whatever was lost, torn or repeated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hbt_ray.errors import StorageError
from hbt_ray.run_dir import RunDir
from hbt_ray.train.worker.metrics import MetricsFile
from tests.disks import small_disk


def steps(path: Path) -> list[int]:
    """Of a file without any damaged line."""
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    "left",
    [
        pytest.param([0, 1, 2, 3, 4, 5, 6], id="rows beyond the checkpoint"),
        pytest.param([0, 1, 2, 3, 4, 2, 3, 4, 5], id="rows that were repeated"),
        pytest.param([0, 1, 2, 3, 4], id="rows up to the checkpoint"),
    ],
)
@pytest.mark.parametrize("torn", ["", '{"step": 7, "lo', '{"step": 7, "lo\n', "\0\0\0\0", "[1]\n\n"])
def test_training_that_goes_on_has_one_row_a_step(tmp_path: Path, left: list[int], torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": step}) + "\n" for step in left) + torn)
    assert [row["step"] for row in RunDir(tmp_path).curve()] == sorted(set(left)), "readers skip what is torn"
    file = MetricsFile(path)
    file.truncate(5)
    for step in range(5, 9):
        file.add({"step": step, "loss": step})
    file.flush()
    assert steps(path) == list(range(9))


def test_rows_are_on_the_disk_after_a_flush_and_in_order(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.truncate(0)
    for step in range(100):
        file.add({"step": step})
        if step % 10 == 9:
            file.flush()
            assert steps(tmp_path / "metrics.jsonl") == list(range(step + 1))


def test_a_full_disk_loses_no_row(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        file, path = MetricsFile(disk / "metrics.jsonl"), disk / "metrics.jsonl"
        file.truncate(0)
        file.add({"step": 0})
        file.flush()
        filler = disk / "filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(b"x" * (16 << 20))
        file.add({"step": 1, "text": "x" * 10_000})
        with pytest.raises(StorageError) as caught:
            file.flush()
        assert caught.value.path == str(path)
        assert steps(path) == [0]
        filler.unlink()
        file.flush()
        assert steps(path) == [0, 1]
