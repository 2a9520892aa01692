"""Small stores and configurations that several tests use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hbt_ray.data.index.manifest import Manifest
from hbt_ray.data.index.negatives import MinedDataset, NegativesManifest, TeacherScores, write_manifest, write_rows
from hbt_ray.data.index.permutation import Indices
from hbt_ray.data.prepare import StoreConfig, prepare
from hbt_ray.train.config import TrainConfig

LANGUAGES = ("ar", "de", "en")
WORDS = {
    "ar": ("ما لون", "لون هو", "شيء"),
    "de": ("Welche Farbe hat", "Die Farbe ist", "Ding"),
    "en": ("What colour is", "The colour is", "thing"),
}


def small_store(path: Path, num_items: int = 60) -> Path:
    """Items in three languages; two of a pair share their passage."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = path.with_suffix(".jsonl")
    write_colours(table, range(num_items))
    source = {"kind": "table", "name": "colours", "path": str(table), "columns": {"passage_id": "passage_id"}}
    prepare(StoreConfig.make({"path": str(path), "sources": [source]}, "test"))
    return path


def write_colours(path: Path, numbers: range) -> None:
    """JSON lines of items in three languages; two of a pair share their passage."""
    with path.open("w", encoding="utf-8") as file:
        for number in numbers:
            for language in LANGUAGES:
                ask, say, noun = WORDS[language]
                row = {
                    "item_id": f"i{number}",
                    "language": language,
                    "question": f"{ask} {noun} {number}?",
                    "passage": f"{say} {noun} {number // 2} {noun}",
                    "passage_id": f"p{number // 2}",
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def small_run(folder: Path, *overrides: str, **settings: Any) -> TrainConfig:
    """A run that ends within seconds once its workers are up."""
    values = {
        "name": "small",
        "store": str(folder / "store"),
        "storage_path": str(folder / "runs"),
        "model": {
            "layers": 1,
            "width": 32,
            "heads": 2,
            "vocabulary": 300,
            "max_question_length": 16,
            "max_passage_length": 16,
        },
        "plan": {"batch_size": 12},
        "optimiser": {"steps": 40, "learning_rate": 1e-3},
        "stream": {"rows_per_task": 24},
        "workers": {"count": 2, "max_failures": 0},
        "checkpoints": {"every": 10},
        **settings,
    }
    return TrainConfig.make(values, "test", overrides)


def mined_table() -> Indices:
    """Up to four negatives for each of 60 items, never one that shares the passage; every seventh item has none."""
    items = np.arange(60)[:, None]
    table: Indices = (items + np.array([2, 17, 31, 40])) % 60
    table[::7] = -1
    return table


def write_negatives(
    folder: Path, store: Manifest, tables: dict[str, Indices], scored: Mapping[str, TeacherScores] | None = None
) -> Path:
    """Mined negatives, as `hbt mine` leaves them, from item numbers [items, keep] by dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {name: write_rows(folder, name, table, (scored or {}).get(name)) for name, table in tables.items()}
    datasets = tuple(
        MinedDataset(
            name=name,
            language="en",
            file=file,
            sha256=checksum,
            num_items=len(tables[name]),
            num_questions=len(tables[name]),
            num_served=int((tables[name] >= 0).any(axis=1).sum()),
            num_negatives=int((tables[name] >= 0).sum()),
            dropped={},
        )
        for name, (file, checksum) in written.items()
    )
    keep = next(iter(tables.values())).shape[1]
    write_manifest(
        folder,
        NegativesManifest(
            store=store.checksum, model="made up", fingerprint="", keep=keep, settings={}, datasets=datasets
        ),
    )
    return folder
