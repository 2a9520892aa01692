"""What a submitted job takes along."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import _get_excludes
from ray.runtime_env import RuntimeEnv

from tests.cluster.files import CLUSTER, read

ENVIRONMENT = read("runtime_env.yaml")


def test_ray_accepts_it() -> None:
    made = RuntimeEnv(**ENVIRONMENT, _validate=True)
    assert made["excludes"] == ENVIRONMENT["excludes"]
    assert made.env_vars()["MALLOC_ARENA_MAX"] == "1"
    assert made.keys() <= {"excludes", "env_vars"}, "packages are the image's, so that all nodes have the same"


@pytest.mark.parametrize(
    ("path", "goes"),
    [
        ("hbt_ray/data/plan/plan.py", True),
        ("hbt_ray/demo/train.yaml", True),
        ("train.yaml", True),
        ("pyproject.toml", True),
        (".git/config", False),
        (".venv/bin/python", False),
        ("data/faq.jsonl", False),
        ("stores/faq/manifest.json", False),
        ("runs/faq/checkpoints/step/weights", False),
        ("elsewhere/model.safetensors", False),
        ("hbt_ray/__pycache__/run.pyc", False),
    ],
)
def test_code_goes_and_data_stays(path: str, goes: bool, tmp_path: Path) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    skip = _get_excludes(tmp_path, ENVIRONMENT["excludes"])
    assert any(skip(place) for place in [file, *file.parents] if tmp_path in place.parents) is not goes


def test_what_is_left_out_is_no_part_of_the_package() -> None:
    root = CLUSTER.parent
    skip = _get_excludes(root, ENVIRONMENT["excludes"])
    shipped = [path for path in (root / "hbt_ray").rglob("*") if "__pycache__" not in path.parts]
    assert shipped
    assert [path for path in shipped if skip(path)] == []
