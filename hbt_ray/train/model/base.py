"""The base encoder of a run: what every worker starts from, built once. Runs of a search share those that are equal."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from hbt_ray.data.store.store import Store
from hbt_ray.storage import atomic_folder
from hbt_ray.train.model.config import ModelConfig
from hbt_ray.train.model.encoder import build


def provide(base: Path, config: ModelConfig, store: Store, languages: tuple[str, ...], shared: Path | None) -> None:
    """Write the encoder, unless it is there.

    Building one imports transformers, which takes longer than the whole start of a short run.

    Args:
        languages: those whose texts a tokenizer from scratch learns from.
        shared: where equal ones of other runs are, and this one will be.
    """
    if base.exists():
        return
    told = json.dumps([config.identity, store.manifest.checksum, languages])
    common = shared / hashlib.sha256(told.encode()).hexdigest()[:16] if shared else None
    with atomic_folder(base) as folder:
        if common and common.exists():
            _copy(common, folder)
            return
        build(config, store.sample_texts(languages)).save_pretrained(str(folder), create_model_card=False)
    if common:
        _offer(base, common)


def _offer(base: Path, common: Path) -> None:
    """Whoever is first; nobody changes what others may be reading."""
    common.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{common.name}-", dir=common.parent) as scratch:
        _copy(base, Path(scratch) / "new")
        with suppress(OSError):
            os.rename(Path(scratch) / "new", common)


def _copy(source: Path, target: Path) -> None:
    """By links where the file system has them, as weights can be gigabytes and are never written again."""

    def link(of: str, name: str) -> None:
        try:
            os.link(of, name)
        except OSError:
            shutil.copyfile(of, name)

    shutil.copytree(source, target, copy_function=link, dirs_exist_ok=True)
