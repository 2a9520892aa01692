"""Damaged stores and negatives: whatever bit changes, a reader gets the same texts or one named error."""

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
from hbt_ray.storage import location as store_location
from hbt_ray.storage import with_checksum, write_json
from tests.data.test_negatives import GROUPS, made_up, made_up_scores, manifest, write_negatives
from tests.data.test_store import LANGUAGES, local_uri, near, written
from tests.mutations import mutations

SHARD = "facts/00000.arrow"


def texts(store: Store) -> list[str]:
    """All that training reads of the first shard."""
    items = np.arange(64)
    read = [
        text
        for side in ("question", "passage", "answer")
        for code in range(3)
        for text in store.texts_of("facts", side, items, np.full(64, code, np.int16), LANGUAGES)
    ]
    return [*read, *map(str, store.passage_keys("facts", items))]


def outcomes(root: str, uri: bool, number: int) -> None:
    """Read as many damaged versions of a shard; print what came of each."""
    path = Path(root) / SHARD
    sound = path.read_bytes()
    location = local_uri(Path(root)) if uri else root
    store_location.RETRY_SECONDS = (0.0,)
    wanted = texts(Store(root))
    for version, content in enumerate(mutations(sound, number)):
        path.write_bytes(content)
        try:
            store = Store(location, NodeCacheConfig(folder=Path(root).parent / "caches" / str(version)))
            outcome = "same" if texts(store) == wanted else "OTHER TEXTS"
        except StoreError as error:
            outcome = error.code if SHARD in str(error) and "\n" not in str(error) else f"UNNAMED {error}"
        except BaseException as error:
            outcome = f"UNNAMED {error!r}"
        print(json.dumps(outcome), flush=True)


@pytest.mark.parametrize("uri", [False, True], ids=["folder", "uri"])
def test_a_damaged_shard_is_named_or_harmless(tmp_path: Path, uri: bool) -> None:
    """In a process of its own, as damaged offsets would end it by a signal."""
    written(tmp_path / "store", shard_items=64, batch_items=32, length=20)
    command = f"from tests.data.test_store_damage import outcomes; outcomes({str(tmp_path / 'store')!r}, {uri}, 400)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == 400
    assert set(told) <= {"same", "DAMAGED_SHARD", *(["UNREACHABLE"] if uri else [])}, sorted(set(told))
    assert told.count("DAMAGED_SHARD") > 200


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    written(tmp_path / "store", shard_items=64)
    path, codes = tmp_path / "store" / "manifest.json", []
    sound, manifest = path.read_bytes(), read_manifest(tmp_path / "store")
    for content in mutations(sound, 200):
        path.write_bytes(content)
        try:
            codes.append("same" if read_manifest(tmp_path / "store") == manifest else "OTHER")
        except StoreError as error:
            codes.append(error.code)
    assert set(codes) == {"same", "DAMAGED_MANIFEST"}  # White space between values says nothing.
    assert codes.count("same") < 100


@pytest.mark.parametrize("name", ["../../outside.arrow", "/etc/passwd", "facts/../../x", "", "a/./b", "C:\\x"])
def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path, name: str) -> None:
    written(tmp_path / "store", shard_items=64)
    path = tmp_path / "store" / "manifest.json"
    for place in ("shard", "dataset"):
        record = json.loads(path.read_bytes())
        dataset = record["datasets"][0]
        if place == "shard":
            dataset["shards"][0]["file"] = name
        else:
            dataset["name"] = name
        write_json(path, with_checksum(record))
        with pytest.raises(StoreError) as caught:
            Store(tmp_path / "store")
        assert caught.value.code == "DAMAGED_MANIFEST"
        dataset["shards"][0]["file"], dataset["name"] = SHARD, "facts"
        write_json(path, with_checksum(record))


def test_another_store_with_the_same_checksums_poisons_no_cache(tmp_path: Path) -> None:
    """A forged store has the manifest of another one and other texts."""
    sound = written(tmp_path / "store", shard_items=64)
    forged = tmp_path / "forged"
    written(forged, shard_items=64, length=50)
    (forged / "manifest.json").write_bytes((tmp_path / "store" / "manifest.json").read_bytes())
    with pytest.raises(StoreError) as caught:
        texts(Store(local_uri(forged), near(tmp_path)))
    assert caught.value.code == "DAMAGED_SHARD"
    assert texts(Store(local_uri(tmp_path / "store"), near(tmp_path))) == texts(sound)


def test_damage_does_not_stay_in_the_cache_after_a_repair(tmp_path: Path) -> None:
    sound = written(tmp_path / "store", shard_items=64)
    wanted, path = texts(sound), tmp_path / "store" / SHARD
    content = path.read_bytes()
    path.write_bytes(content.replace(b"question en 5 ", b"question en 9 "))
    with pytest.raises(StoreError):
        texts(Store(local_uri(tmp_path / "store"), near(tmp_path)))
    path.write_bytes(content)
    assert texts(Store(local_uri(tmp_path / "store"), near(tmp_path))) == wanted


def test_damaged_files_of_the_cache_are_fetched_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sound = written(tmp_path / "store", shard_items=64, batch_items=64)
    wanted = texts(sound)
    assert texts(Store(local_uri(tmp_path / "store"), near(tmp_path))) == wanted
    for seed in range(20):
        for path in near(tmp_path).root.glob("*.arrow"):
            (content,) = mutations(path.read_bytes(), 1, seed)
            path.write_bytes(content)
        assert texts(Store(local_uri(tmp_path / "store"), near(tmp_path))) == wanted
    assert "damaged" in caplog.text


def test_damaged_negatives_are_named(tmp_path: Path) -> None:
    store = manifest(GROUPS, [(("de", "en"), 40)])
    table = made_up(40)
    folder = write_negatives(tmp_path / "mined", store, {"set1": table}, {"set1": made_up_scores(table)})
    for path in sorted(folder.iterdir()):
        sound, codes = path.read_bytes(), []
        for content in mutations(sound, 150):
            path.write_bytes(content)
            try:
                same = np.array_equal(Negatives.open(folder, store).of("set1"), table)
                codes.append("same" if same else "OTHER")
            except NegativesError as error:
                codes.append(error.code)
        assert set(codes) <= {"same", "DAMAGED_FILE"}
        assert codes.count("DAMAGED_FILE") > 75
        path.write_bytes(sound)
    assert np.array_equal(Negatives.open(folder, store).of("set1"), table)
    record = json.loads((folder / "negatives.json").read_bytes())
    record["datasets"][0]["file"] = "../outside.arrow"
    write_json(folder / "negatives.json", with_checksum(record))
    with pytest.raises(NegativesError):
        Negatives.open(folder, store)


@pytest.mark.usefixtures("ray_session")
def test_a_damaged_shard_ends_the_stream_in_one_error(tmp_path: Path) -> None:
    store = written(tmp_path / "store", shard_items=200, batch_items=50)
    config = ModelConfig(layers=1, width=32, heads=2, vocabulary=300, max_question_length=12, max_passage_length=12)
    how = tokenising_config(build_encoder(config, store.sample_texts(LANGUAGES)), config)
    loader = LoaderConfig(store.location, PlanConfig(batch_size=24), how)
    path = tmp_path / "store" / SHARD
    path.write_bytes(path.read_bytes().replace(b"question ", b"QUESTION "))
    with pytest.raises(StoreError) as caught:
        list(stream(loader, range(6), 0, 1, StreamConfig(rows_per_task=24)))
    assert caught.value.code == "DAMAGED_SHARD"
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("ray_session")
def test_a_task_whose_process_dies_is_not_repeated_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = written(tmp_path / "store", shard_items=200)
    config = ModelConfig(layers=1, width=32, heads=2, vocabulary=300, max_question_length=12, max_passage_length=12)
    how = tokenising_config(build_encoder(config, store.sample_texts(LANGUAGES)), config)
    loader = Deadly(store.location, PlanConfig(batch_size=24), how)
    with pytest.raises(HbtError) as caught:
        list(stream(loader, range(6), 0, 1, StreamConfig(rows_per_task=24)))
    assert caught.value.code == "WORKER_DIED"


class Deadly(LoaderConfig):
    """Ends the process that opens it, as a defect in a library would."""

    def open(self) -> None:  # type: ignore[override]
        import os

        os.kill(os.getpid(), 11)
