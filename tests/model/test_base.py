"""Base encoders that runs share: the same bytes as one of their own, built once, and only where all is equal."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_ray.data.store.store import Store
from hbt_ray.errors import DamagedFile
from hbt_ray.model import build as bases
from hbt_ray.model.build import provide_base
from hbt_ray.model.config import ModelConfig
from tests.small_data import LANGUAGES, small_run, small_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(small_store(tmp_path_factory.mktemp("base") / "store"))


def model(tmp_path: Path, **changes: int) -> ModelConfig:
    return small_run(tmp_path).model.model_copy(update=changes)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_second_run_has_the_first_ones(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provide_base(tmp_path / "alone", model(tmp_path), store, LANGUAGES, None)
    provide_base(tmp_path / "a" / "base", model(tmp_path), store, LANGUAGES, tmp_path / "shared")
    monkeypatch.setattr(bases, "build_encoder", lambda *_: pytest.fail("built again"))
    provide_base(tmp_path / "b" / "base", model(tmp_path), store, LANGUAGES, tmp_path / "shared")
    assert files(tmp_path / "a" / "base") == files(tmp_path / "b" / "base") == files(tmp_path / "alone")
    assert [path.name for path in (tmp_path / "shared").iterdir() if path.name.startswith(".")] == []


def test_other_models_and_languages_have_their_own(store: Store, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    for number, (config, languages) in enumerate(
        [(model(tmp_path), LANGUAGES), (model(tmp_path, layers=2), LANGUAGES), (model(tmp_path), LANGUAGES[:2])]
    ):
        provide_base(tmp_path / str(number), config, store, languages, shared)
        assert len(list(shared.iterdir())) == number + 1


def test_where_there_are_no_links_files_are_copied(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(bases.os, "link", refuse)
    for name in ("a", "b"):
        provide_base(tmp_path / name, model(tmp_path), store, LANGUAGES, tmp_path / "shared")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a")


def test_whoever_is_second_changes_nothing(store: Store, tmp_path: Path) -> None:
    provide_base(tmp_path / "a", model(tmp_path), store, LANGUAGES, tmp_path / "shared")
    (common,) = (tmp_path / "shared").iterdir()
    before = common.stat().st_ino
    provide_base(tmp_path / "b", model(tmp_path), store, LANGUAGES, tmp_path / "shared")
    assert common.stat().st_ino == before
    assert list((tmp_path / "shared").iterdir()) == [common]


def test_what_is_there_is_left_if_it_is_as_it_was_written(store: Store, tmp_path: Path) -> None:
    provide_base(tmp_path / "a", model(tmp_path), store, LANGUAGES, None)
    before = {path: path.stat().st_ino for path in (tmp_path / "a").rglob("*")}
    provide_base(tmp_path / "a", model(tmp_path), store, LANGUAGES, None)
    assert {path: path.stat().st_ino for path in (tmp_path / "a").rglob("*")} == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "checksums.json"])
def test_one_changed_bit_is_noticed(store: Store, tmp_path: Path, name: str) -> None:
    """Adapters are merged into the base, so another base is another encoder."""
    provide_base(tmp_path / "a", model(tmp_path), store, LANGUAGES, None)
    path = next((tmp_path / "a").rglob(name))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFile):
        provide_base(tmp_path / "a", model(tmp_path), store, LANGUAGES, None)
