"""Damaged stores and negatives: for any changed bit, a reader gets the same texts or one error that names the file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hbt_ray.data.index.negatives import Negatives
from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.data.store.node_cache import NodeCacheConfig
from hbt_ray.data.store.store import Store, read_manifest
from hbt_ray.data.stream.loader import LoaderConfig
from hbt_ray.data.stream.stream import StreamConfig, stream
from hbt_ray.errors import HbtError, NegativesError, StoreError
from hbt_ray.model.build import build_encoder, tokenising_config
from hbt_ray.model.config import ModelConfig
from hbt_ray.storage import object_store, write_checked_json
from tests.data.test_negatives import GROUPS, manifest, random_negatives, random_scores, write_negatives
from tests.data.test_store import LANGUAGES, cache_in, local_uri, write_store
from tests.mutations import mutations

SHARD = "facts/00000.arrow"


def texts(store: Store) -> list[str]:
    """All texts and keys of the first shard that training reads."""
    items = np.arange(64)
    read = [
        text
        for side in ("question", "passage", "answer")
        for code in range(3)
        for text in store.texts_of("facts", side, items, np.full(64, code, np.int16), LANGUAGES)
    ]
    return [*read, *map(str, store.passage_keys("facts", items))]


def outcomes(root: str, uri: bool, number: int) -> None:
    """Read `number` damaged versions of a shard and print the outcome of each."""
    path = Path(root) / SHARD
    undamaged = path.read_bytes()
    location = local_uri(Path(root)) if uri else root
    object_store.RETRY_SECONDS = (0.0,)
    expected = texts(Store(root))
    for version, content in enumerate(mutations(undamaged, number)):
        path.write_bytes(content)
        try:
            store = Store(location, NodeCacheConfig(folder=Path(root).parent / "caches" / str(version)))
            outcome = "same" if texts(store) == expected else "OTHER TEXTS"
        except StoreError as error:
            outcome = error.code if SHARD in str(error) and "\n" not in str(error) else f"UNNAMED {error}"
        except BaseException as error:
            outcome = f"UNNAMED {error!r}"
        print(json.dumps(outcome), flush=True)


@pytest.mark.parametrize("uri", [False, pytest.param(True, marks=pytest.mark.integration)], ids=["folder", "uri"])
def test_a_damaged_shard_is_an_error_or_gives_the_same_texts(tmp_path: Path, uri: bool) -> None:
    """Runs in a process of its own: damaged offsets could end it with a signal."""
    write_store(tmp_path / "store", shard_items=64, batch_items=32, length=20)
    command = f"from tests.data.test_store_damage import outcomes; outcomes({str(tmp_path / 'store')!r}, {uri}, 400)"
    process = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-2000:]
    outcomes_read = [json.loads(line) for line in process.stdout.splitlines()]
    assert len(outcomes_read) == 400
    assert set(outcomes_read) <= {"same", "DAMAGED_SHARD", *(["UNREACHABLE"] if uri else [])}, sorted(
        set(outcomes_read)
    )
    assert outcomes_read.count("DAMAGED_SHARD") > 200


def test_a_damaged_manifest_is_an_error(tmp_path: Path) -> None:
    write_store(tmp_path / "store", shard_items=64)
    path, codes = tmp_path / "store" / "manifest.json", []
    undamaged, manifest = path.read_bytes(), read_manifest(tmp_path / "store")
    for content in mutations(undamaged, 200):
        path.write_bytes(content)
        try:
            codes.append("same" if read_manifest(tmp_path / "store") == manifest else "OTHER")
        except StoreError as error:
            codes.append(error.code)
    assert set(codes) == {"same", "DAMAGED_MANIFEST"}  # White space between values says nothing.
    assert codes.count("same") < 100


@pytest.mark.parametrize("name", ["../../outside.arrow", "/etc/passwd", "facts/../../x", "", "a/./b", "C:\\x"])
def test_a_manifest_cannot_name_files_outside_the_store(tmp_path: Path, name: str) -> None:
    write_store(tmp_path / "store", shard_items=64)
    path = tmp_path / "store" / "manifest.json"
    for place in ("shard", "dataset"):
        record = json.loads(path.read_bytes())
        dataset = record["datasets"][0]
        if place == "shard":
            dataset["shards"][0]["file"] = name
        else:
            dataset["name"] = name
        write_checked_json(path, record)
        with pytest.raises(StoreError) as caught:
            Store(tmp_path / "store")
        assert caught.value.code == "DAMAGED_MANIFEST"
        dataset["shards"][0]["file"], dataset["name"] = SHARD, "facts"
        write_checked_json(path, record)


def test_a_forged_store_does_not_poison_the_cache(tmp_path: Path) -> None:
    """The forged store has the manifest of another store and other texts."""
    undamaged = write_store(tmp_path / "store", shard_items=64)
    forged = tmp_path / "forged"
    write_store(forged, shard_items=64, length=50)
    (forged / "manifest.json").write_bytes((tmp_path / "store" / "manifest.json").read_bytes())
    with pytest.raises(StoreError) as caught:
        texts(Store(local_uri(forged), cache_in(tmp_path)))
    assert caught.value.code == "DAMAGED_SHARD"
    assert texts(Store(local_uri(tmp_path / "store"), cache_in(tmp_path))) == texts(undamaged)


def test_damage_is_not_cached(tmp_path: Path) -> None:
    undamaged = write_store(tmp_path / "store", shard_items=64)
    expected, path = texts(undamaged), tmp_path / "store" / SHARD
    content = path.read_bytes()
    path.write_bytes(content.replace(b"question en 5 ", b"question en 9 "))
    with pytest.raises(StoreError):
        texts(Store(local_uri(tmp_path / "store"), cache_in(tmp_path)))
    path.write_bytes(content)
    assert texts(Store(local_uri(tmp_path / "store"), cache_in(tmp_path))) == expected


def test_damaged_files_of_the_cache_are_fetched_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    undamaged = write_store(tmp_path / "store", shard_items=64, batch_items=64)
    expected = texts(undamaged)
    assert texts(Store(local_uri(tmp_path / "store"), cache_in(tmp_path))) == expected
    for seed in range(20):
        for path in cache_in(tmp_path).root.glob("*.arrow"):
            (content,) = mutations(path.read_bytes(), 1, seed)
            path.write_bytes(content)
        assert texts(Store(local_uri(tmp_path / "store"), cache_in(tmp_path))) == expected
    assert "damaged" in caplog.text


def test_damaged_negatives_are_an_error(tmp_path: Path) -> None:
    store = manifest(GROUPS, [(("de", "en"), 40)])
    table = random_negatives(40)
    folder = write_negatives(tmp_path / "mined", store, {"set1": table}, {"set1": random_scores(table)})
    for path in sorted(folder.iterdir()):
        undamaged, codes = path.read_bytes(), []
        for content in mutations(undamaged, 150):
            path.write_bytes(content)
            try:
                same = np.array_equal(Negatives.open(folder, store).table("set1"), table)
                codes.append("same" if same else "OTHER")
            except NegativesError as error:
                codes.append(error.code)
        assert set(codes) <= {"same", "DAMAGED_FILE"}
        assert codes.count("DAMAGED_FILE") > 75
        path.write_bytes(undamaged)
    assert np.array_equal(Negatives.open(folder, store).table("set1"), table)
    record = json.loads((folder / "negatives.json").read_bytes())
    record["datasets"][0]["file"] = "../outside.arrow"
    write_checked_json(folder / "negatives.json", record)
    with pytest.raises(NegativesError):
        Negatives.open(folder, store)


@pytest.mark.integration
@pytest.mark.usefixtures("ray_session")
def test_a_damaged_shard_ends_the_stream_with_one_error(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", shard_items=200, batch_items=50)
    config = ModelConfig(layers=1, width=32, heads=2, vocabulary=300, max_question_length=12, max_passage_length=12)
    tokenising = tokenising_config(build_encoder(config, store.sample_texts(LANGUAGES)), config)
    loader = LoaderConfig(store.location, PlanConfig(batch_size=24), tokenising)
    path = tmp_path / "store" / SHARD
    path.write_bytes(path.read_bytes().replace(b"question ", b"QUESTION "))
    with pytest.raises(StoreError) as caught:
        list(stream(loader, range(6), 0, 1, StreamConfig(rows_per_task=24)))
    assert caught.value.code == "DAMAGED_SHARD"
    assert "\n" not in str(caught.value)


@pytest.mark.integration
@pytest.mark.usefixtures("ray_session")
def test_a_task_that_crashes_its_process_is_not_retried_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_store(tmp_path / "store", shard_items=200)
    config = ModelConfig(layers=1, width=32, heads=2, vocabulary=300, max_question_length=12, max_passage_length=12)
    tokenising = tokenising_config(build_encoder(config, store.sample_texts(LANGUAGES)), config)
    monkeypatch.setattr("hbt_ray.data.stream.stream._MAX_RETRIES", 1)  # Each retry starts a process.
    loader = CrashingLoaderConfig(store.location, PlanConfig(batch_size=24), tokenising)
    with pytest.raises(HbtError) as caught:
        list(stream(loader, range(6), 0, 1, StreamConfig(rows_per_task=24)))
    assert caught.value.code == "WORKER_DIED"


class CrashingLoaderConfig(LoaderConfig):
    """Ends the process that opens it, as a bug in a library would."""

    def open(self) -> None:  # type: ignore[override]
        import os

        os.kill(os.getpid(), 11)
