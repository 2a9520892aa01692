"""Damaged indexes, vectors, results and fixes: one named error, or the same content; what can be made again is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hbt_ray.errors import HbtError, InputError, StorageError, TaskError
from hbt_ray.retrieval.result import FAILURES_FILE, PER_QUERY_FILE, EvaluationResult
from hbt_ray.retrieval.search.faiss_index import IndexConfig
from hbt_ray.retrieval.search.saved_index import SavedIndex, save_index
from hbt_ray.retrieval.transforms import Transform
from hbt_ray.retrieval.transforms.methods import Lir
from hbt_ray.retrieval.vectors import TextSet, VectorCache, create_vector_file
from hbt_ray.storage import naming_storage_errors, write_checksums
from tests.disks import small_disk
from tests.mutations import mutations
from tests.report.test_evidence import failure, kept, queries, result_of
from tests.retrieval.corpora import clustered, corpus
from tests.retrieval.test_saved_index import ENCODER, documents_of
from tests.transforms.test_transform import fitted


def outcomes(path: Path, number: int, read: Callable[[], object]) -> Counter[str]:
    """What reading came to for so many damaged versions of a file: `same`, `OTHER`, or the error's code or class."""
    sound, wanted, found = path.read_bytes(), read(), Counter[str]()
    for content in mutations(sound, number):
        path.write_bytes(content)
        try:
            found["same" if read() == wanted else "OTHER"] += 1
        except HbtError as error:
            found[error.code or type(error).__name__] += 1
    path.unlink()
    try:
        found["same" if read() == wanted else "OTHER"] += 1
    except HbtError as error:
        found[f"missing: {type(error).__name__}"] += 1
    path.write_bytes(sound)
    assert read() == wanted
    return found


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat"])
def test_a_damaged_index_is_named(tmp_path: Path, factory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hbt_ray.retrieval.search.faiss_index._MIN_ROWS", 100)
    documents = clustered(900, 1)
    ids = [str(number) for number in range(900)]
    folder = tmp_path / "index"
    save_index(folder, documents_of(ids, ["en"] * 900), documents, ENCODER, "f1", IndexConfig(factory=factory))
    assert (folder / "en.faiss").exists() == (factory != "Flat")
    for path in sorted(folder.iterdir()):
        found = outcomes(path, 60, lambda: SavedIndex.load(folder).search(documents[:2], "f1", 3))
        assert not {*found} - {"same", "DAMAGED_FILE", "missing: DamagedFile", "missing: TaskError"}, (path.name, found)
        assert found["DAMAGED_FILE"] > 30


@pytest.mark.parametrize("place", [".", "..", "mine", "file", "link"])
def test_an_index_replaces_nothing_but_an_index(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, languages, documents = corpus("ties", 20, 2)
    outside = tmp_path / "work" / "outside"
    outside.mkdir(parents=True)
    (tmp_path / "work" / "mine").mkdir()
    (tmp_path / "work" / "file").write_text("mine")
    (tmp_path / "work" / "link").symlink_to(outside)
    for folder in (tmp_path, tmp_path / "work", tmp_path / "work" / "mine", outside):
        (folder / "thesis.tex").write_text("mine")
    monkeypatch.chdir(tmp_path / "work")
    before = sorted(map(str, tmp_path.rglob("*")))
    with pytest.raises(TaskError) as caught:
        save_index(Path(place), documents_of(ids, languages), documents, ENCODER, "f1", IndexConfig())
    assert caught.value.code == "NOT_AN_INDEX"
    assert sorted(map(str, tmp_path.rglob("*"))) == before
    for _ in range(2):
        save_index(Path("new"), documents_of(ids, languages), documents, ENCODER, "f1", IndexConfig())


def test_damaged_vectors_are_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts, cache = TextSet.of(0, ["a", "b", "a", "c"]), VectorCache(tmp_path, "model")
    wanted = np.arange(3 * 40, dtype=np.float32).reshape(3, 40)

    def read() -> bool:
        vectors = cache.find(texts)
        if vectors is not None:
            return bool(np.array_equal(vectors, wanted))
        with cache.writing(texts, 40) as array:
            array[:] = wanted
        cache.write_fingerprint("f1")
        return True

    assert read()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3
    for path in files:
        for content in mutations(path.read_bytes(), 60):
            path.write_bytes(content)
            assert read()
        assert cache.find(texts) is not None
    assert cache.fingerprint == "f1"
    assert "damaged" in caplog.text


def test_damaged_results_are_named(tmp_path: Path) -> None:
    table, folder = queries(0.5, 0), tmp_path / "result"
    kept(folder, result_of("m", table), table, [failure("de_1", 0.1)])
    path = folder / "result.json"

    def read() -> object:
        evidence = EvaluationResult.load(path)
        return evidence, evidence.queries, evidence.failures

    for file in sorted(folder.iterdir()):
        found = outcomes(file, 60, read)
        assert not {*found} - {"same", "DAMAGED_FILE", "missing: DamagedFile", "missing: TaskError"}, (file, found)
        assert found["DAMAGED_FILE"] > 30
    assert {PER_QUERY_FILE, FAILURES_FILE} < {file.name for file in folder.iterdir()}


def test_a_damaged_fix_is_named(tmp_path: Path) -> None:
    path = fitted(Lir()).save(tmp_path / "lir.safetensors")
    found = outcomes(path, 150, lambda: Transform.load(path).fingerprint)
    assert not {*found} - {"same", "INVALID_TRANSFORM", "missing: ModelError"}
    assert found["INVALID_TRANSFORM"] > 75


def test_a_memory_map_on_a_full_disk_is_an_error_and_no_signal(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "256k") as disk:
        with pytest.raises(StorageError), naming_storage_errors(disk):
            create_vector_file(disk / "vectors.npy", (1_000, 1_000))
        texts, cache = TextSet.of(0, ["a"] * 2), VectorCache(disk, "model")
        with pytest.raises(StorageError), cache.writing(texts, 1_000_000):
            pass
        ids, languages, documents = corpus("ties", 20_000, 3)
        with pytest.raises(StorageError):
            save_index(disk / "index", documents_of(ids, languages), documents, ENCODER, "f1", IndexConfig())
        assert not list(disk.rglob("*.part"))
        save_index(disk / "index", documents_of(ids[:20], languages[:20]), documents[:20], ENCODER, "f1", IndexConfig())


def test_an_index_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    ids, languages, documents = corpus("ties", 20, 2)
    folder = tmp_path / "index"
    save_index(folder, documents_of(ids, languages), documents, ENCODER, "f1", IndexConfig())
    about = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**about, "languages": {"../../x": 3}}))
    write_checksums(folder)
    with pytest.raises(InputError):
        SavedIndex.load(folder)
