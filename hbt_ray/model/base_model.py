"""The base encoder of a run: what every worker starts from, built once. Runs of a search share those that are equal."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from hbt_ray.data.store.store import Store
from hbt_ray.errors import DamagedFile
from hbt_ray.model.build import build_encoder
from hbt_ray.model.config import ModelConfig
from hbt_ray.storage import (
    atomic_folder,
    blocking_lock,
    file_sha256,
    read_checked_json,
    text_sha256,
    with_checksum,
    write_json,
)

CHECKSUMS = "checksums.json"
"""SHA-256 of the other files of a base encoder."""


def provide_base(
    base: Path, config: ModelConfig, store: Store, languages: tuple[str, ...], shared: Path | None
) -> None:
    """Write the encoder, unless it is there.

    Building one imports transformers, which takes longer than the whole start of a short run.

    Args:
        languages: those whose texts a tokenizer from scratch learns from.
        shared: where equal ones of other runs are, and this one will be.

    Raises:
        DamagedFile: it is there and was changed.
    """
    if base.exists():
        verify_base(base)
        return
    if shared is None:
        with atomic_folder(base) as folder:
            _build(folder, config, store, languages)
        return
    identity = json.dumps([config.identity, store.manifest.checksum, languages])
    common = shared / text_sha256(identity)[:16]
    common.parent.mkdir(parents=True, exist_ok=True)
    with blocking_lock(common.with_name(f"{common.name}.building")):  # Nobody changes what others may be reading.
        if not common.exists():
            with atomic_folder(common) as folder:
                _build(folder, config, store, languages)
    with atomic_folder(base) as folder:
        _copy(common, folder)


def _build(folder: Path, config: ModelConfig, store: Store, languages: tuple[str, ...]) -> None:
    build_encoder(config, store.sample_texts(languages)).save_pretrained(str(folder), create_model_card=False)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(
        folder / CHECKSUMS,
        with_checksum({str(path.relative_to(folder)): file_sha256(path) for path in files}),
    )


def verify_base(base: Path) -> None:
    """Compare the files of a base encoder with what was written.

    Adapters are trained on it and merged into it, so a changed bit would give another encoder without a word.

    Raises:
        DamagedFile: one is missing, cut short or changed.
    """
    try:
        checksums = read_checked_json(base / CHECKSUMS)
    except FileNotFoundError:
        raise DamagedFile(str(base), f"{CHECKSUMS} is missing") from None
    for name, checksum in checksums.items():
        path = base / name
        if not path.is_file() or file_sha256(path) != checksum:
            raise DamagedFile(str(path), "its checksum does not match its content" if path.exists() else "missing")


def _copy(source: Path, target: Path) -> None:
    """By links where the file system has them, as weights can be gigabytes and are never written again."""

    def link(of: str, name: str) -> None:
        try:
            os.link(of, name)
        except OSError:
            shutil.copyfile(of, name)

    shutil.copytree(source, target, copy_function=link, dirs_exist_ok=True)
