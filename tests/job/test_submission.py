"""What can be wrong with a job is reported before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray import ray_compat
from hbt_ray.cli.submit import Job
from hbt_ray.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "http://127.0.0.1:8265"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "env.yaml").write_text("excludes: [/data/]\nenv_vars: {MALLOC_ARENA_MAX: '1'}\n")
    (tmp_path / "train.yaml").write_text("name: a\n")
    return tmp_path


def job(folder: Path, *command: str) -> Job:
    return Job(command or ("train", "train.yaml"), ADDRESS, str(folder), folder / "env.yaml")


def test_the_line_is_a_call_of_ray_that_a_shell_can_read() -> None:
    line = Job(("train", "train.yaml", "name=two words"), ADDRESS, name="b", wait=False).line
    assert line == (
        "ray job submit --address http://127.0.0.1:8265 --submission-id b --no-wait --working-dir . "
        "--runtime-env cluster/runtime_env.yaml -- python -m hbt_ray train train.yaml 'name=two words'"
    )


@pytest.mark.parametrize("text", [None, "[1, 2]", "a: [", "exclude: [data]", "env_vars: [A]"])
def test_a_bad_runtime_environment(folder: Path, text: str | None) -> None:
    (folder / "env.yaml").unlink() if text is None else (folder / "env.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        job(folder).check()
    assert error.value.code == "RUNTIME_ENV"
    assert str(folder / "env.yaml") in str(error.value)


def test_a_missing_working_directory(folder: Path) -> None:
    with pytest.raises(ConfigError) as error:
        Job(("train",), ADDRESS, str(folder / "elsewhere"), folder / "env.yaml").check()
    assert error.value.code == "WORKING_DIR"


def test_excluded_files_do_not_count(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "big").write_bytes(bytes(5_000))
    (folder / "notes").mkdir()
    (folder / "notes" / "some").write_bytes(bytes(70))
    (folder / ".gitignore").write_text("*.bin\n")
    (folder / "notes" / "vectors.bin").write_bytes(bytes(900))
    sizes = ray_compat.package_sizes(folder, ["/data/"])
    assert sizes["notes"] == 70
    assert "data" not in sizes


def test_a_working_directory_that_is_too_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_compat, "max_package_bytes", lambda: 2**20)
    (folder / "weights").write_bytes(bytes(3 * 2**20))
    with pytest.raises(ConfigError) as error:
        job(folder).check()
    assert error.value.code == "WORKING_DIR"
    assert "the largest are weights 3 MiB" in str(error.value)


@pytest.mark.parametrize("place", ["command", "env_vars"])
def test_a_secret_does_not_go_into_a_job(folder: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijkl")
    if place == "env_vars":
        (folder / "env.yaml").write_text("env_vars: {HF_TOKEN: hf_abcdefghijkl}\n")
    command = ("train", "train.yaml", "name=hf_abcdefghijkl") if place == "command" else ()
    with pytest.raises(ConfigError) as error:
        job(folder, *command).check()
    assert error.value.code == "SECRET_IN_JOB"
    assert "hf_abc" not in str(error.value)


def test_this_repository_fits() -> None:
    """A job as the README has it, from the root of this repository: data and build products are not sent."""
    own = Job(("train", "train.yaml"), ADDRESS, str(ROOT), ROOT / "cluster" / "runtime_env.yaml")
    own.check()
    assert ray_compat.package_sizes(ROOT, ["/data/"])["hbt_ray"] > 100_000
