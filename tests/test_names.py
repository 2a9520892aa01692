"""Names that become files and folders: refused wherever they come from, before anything is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from hbt_ray.cli.arguments import results_folder, transform_file
from hbt_ray.data.index.manifest import DatasetInfo, Shard
from hbt_ray.errors import ConfigError, InputError
from hbt_ray.retrieval.tasks import Task, open_task
from hbt_ray.retrieval.tasks.config import last_part
from hbt_ray.retrieval.transforms.transform import check_transform_path
from hbt_ray.run_dir import RunDir
from hbt_ray.train.config import TrainConfig
from hbt_ray.tune.trainable import trial_folder

BAD = [".", "..", "../up", "/root", "a/b", ".hidden", "ż" * 101, "a\nb", " a"]


@pytest.mark.parametrize("name", BAD)
def test_names_of_runs_are_checked(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        TrainConfig.make({"name": name, "store": "s"}, "test")
    for make in (
        lambda: results_folder(str(tmp_path), name),
        lambda: RunDir(tmp_path).result(name),
        lambda: transform_file(RunDir(tmp_path / "run"), str(tmp_path), name),
    ):
        with pytest.raises(InputError) as caught:
            make()
        assert caught.value.code == "INVALID_NAME"
    assert os.listdir(tmp_path) == []


def test_a_variant_cannot_make_the_name_of_a_result_too_long(tmp_path: Path) -> None:
    assert RunDir(tmp_path).result("x" * 150, variant="bf16").parent == tmp_path / "results"
    with pytest.raises(InputError) as caught:
        RunDir(tmp_path).result("x" * 150, variant="y" * 60)
    assert caught.value.code == "INVALID_NAME"


@pytest.mark.parametrize("name", BAD)
def test_names_of_tasks_are_checked(name: str) -> None:
    with pytest.raises(InputError) as caught:
        Task.from_rows(name, [("d", "en", "text")], [("q", "en", "text")], [("q", "d")])
    assert caught.value.code == "INVALID_NAME"


def test_the_name_of_a_task_in_the_working_directory_is_that_of_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scifact" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "scifact" / "inner")
    assert [last_part(place) for place in (".", "./", "..", "../inner/.", "s3://b/x/?y=1")] == [
        "inner", "inner", "scifact", "inner", "x"
    ]  # fmt: skip
    for name in (".", ".."):
        with pytest.raises(InputError):
            open_task(f"worldfacts,name={name}")


@pytest.mark.parametrize("name", BAD)
def test_names_in_manifests_are_checked(name: str) -> None:
    with pytest.raises(ValidationError):
        DatasetInfo(name=name, groups=(), shards=())
    if name != "a/b":
        with pytest.raises(ValidationError):
            Shard(file=name, num_items=1, sha256="", checksums="")


def test_names_of_fixes_are_checked(tmp_path: Path) -> None:
    for name in ("x" * 201, "..", ".x"):
        with pytest.raises(InputError):
            check_transform_path(tmp_path / f"{name}.safetensors")


def test_values_of_trials_make_short_plain_names(tmp_path: Path) -> None:
    name = trial_folder(tmp_path, {"model.name": "../Ω/żółć" * 40, ".": 1}, "7f3a").name
    assert len(name.encode()) <= 100
    assert not name.startswith(".")
    assert "/" not in name
