"""What a job takes along: whatever is wrong with it shows before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.errors import ConfigError
from hbt_ray.job import parcel as parcels
from hbt_ray.job.parcel import Parcel, sizes_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "env.yaml").write_text("excludes: [/data/]\nenv_vars: {MALLOC_ARENA_MAX: '1'}\n")
    (tmp_path / "train.yaml").write_text("name: a\n")
    return tmp_path


def parcel(folder: Path, *command: str, name: str = "") -> Parcel:
    return Parcel(command or ("train", "train.yaml"), str(folder), folder / "env.yaml", name)


def test_the_entry_point_is_one_line_that_a_shell_reads_back(folder: Path) -> None:
    made = parcel(folder, "train", "train.yaml", "name=two words", "plan.alpha=[0.2, 0.8]")
    assert made.entrypoint == "python -m hbt_ray train train.yaml 'name=two words' 'plan.alpha=[0.2, 0.8]'"


def test_the_line_is_that_of_rays_own_program() -> None:
    line = Parcel(("train", "train.yaml"), name="b").line("http://127.0.0.1:8265")
    assert line == (
        "ray job submit --address http://127.0.0.1:8265 --submission-id b --working-dir . "
        "--runtime-env cluster/runtime_env.yaml -- python -m hbt_ray train train.yaml"
    )


def test_the_environment_is_the_files_with_the_working_directory(folder: Path) -> None:
    assert parcel(folder).environment() == {
        "excludes": ["/data/"],
        "env_vars": {"MALLOC_ARENA_MAX": "1"},
        "working_dir": str(folder),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "env.yaml: no such file, so the job would take data and runs along"),
        ("[1, 2]", "holds a list"),
        ("a: [", "no YAML"),
        ("exclude: [data]", "Ray knows no 'exclude'"),
        ("env_vars: [A]", "Ray does not take it"),
    ],
)
def test_a_bad_runtime_environment(folder: Path, text: str | None, message: str) -> None:
    (folder / "env.yaml").unlink() if text is None else (folder / "env.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        parcel(folder).environment()


def test_a_name_that_no_job_may_have(folder: Path) -> None:
    with pytest.raises(ConfigError, match="--name two words: use letters"):
        parcel(folder, name="two words").environment()


def test_a_folder_that_is_not_there(folder: Path) -> None:
    with pytest.raises(ConfigError, match="elsewhere: no such folder"):
        Parcel(("train",), str(folder / "elsewhere"), folder / "env.yaml").environment()


def test_what_is_excluded_does_not_count(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "big").write_bytes(bytes(5_000))
    (folder / "notes").mkdir()
    (folder / "notes" / "some").write_bytes(bytes(70))
    (folder / ".gitignore").write_text("*.bin\n")
    (folder / "notes" / "vectors.bin").write_bytes(bytes(900))
    sizes = sizes_of(folder, ["/data/"])
    assert sizes["notes"] == 70
    assert "data" not in sizes


def test_too_much_is_refused_and_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcels, "MOST_BYTES", 2**20)
    (folder / "weights").write_bytes(bytes(3 * 2**20))
    with pytest.raises(ConfigError, match=r"3 MiB would go to the cluster.* 1 MiB; the largest are weights 3 MiB"):
        parcel(folder).environment()


@pytest.mark.parametrize("place", ["command", "env_vars"])
def test_a_secret_does_not_go_into_a_job(folder: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijkl")
    if place == "env_vars":
        (folder / "env.yaml").write_text("env_vars: {HF_TOKEN: hf_abcdefghijkl}\n")
    command = ("train", "train.yaml", "name=hf_abcdefghijkl") if place == "command" else ()
    with pytest.raises(ConfigError, match="holds the value of HF_TOKEN") as caught:
        parcel(folder, *command).environment()
    assert "hf_abc" not in str(caught.value)


def test_this_repository_fits() -> None:
    """As the README has it, from its root; what a build leaves behind stays here."""
    made = Parcel(("train", "train.yaml"), str(ROOT), ROOT / "cluster" / "runtime_env.yaml").environment()
    sizes = sizes_of(ROOT, made["excludes"])
    assert sizes["hbt_ray"] > 100_000
    assert sizes.total() < 20 * 2**20
