"""Folders of small encoders, whole ones and those with something wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from hbt_ray.model.build import build_encoder
from hbt_ray.model.config import ModelConfig

TEXTS = [f"{word} {number}" for word in ("Frage", "question", "سؤال", "คำถาม") for number in range(60)]
SMALL = {"layers": 2, "width": 32, "heads": 2, "vocabulary": 200, "max_question_length": 8, "max_passage_length": 12}


def scratch_config(**settings: object) -> ModelConfig:
    """A scratch encoder's configuration."""
    return ModelConfig(**{**SMALL, **settings})


def config_for(folder: Path, **settings: object) -> ModelConfig:
    """The configuration that starts from a folder."""
    return ModelConfig(**{"name": str(folder), "max_question_length": 8, "max_passage_length": 12, **settings})


def save_scratch_encoder(folder: Path, **settings: object) -> Path:
    """A SentenceTransformer folder with a scratch encoder."""
    build_encoder(scratch_config(**settings), TEXTS).save_pretrained(str(folder), create_model_card=False)
    return folder


def save_transformer(folder: Path) -> Path:
    """The folder of a transformer alone."""
    encoder = build_encoder(scratch_config(), TEXTS)
    encoder[0].model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    return folder


def copy_folder(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def edit_json(path: Path, **changes: Any) -> None:
    """Change some keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
