"""Indexing: documents → a saved index, and its answers to questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from hbt_ray.console import Screen
from hbt_ray.host import usable_cpus
from hbt_ray.model.loading import quiet_transformers
from hbt_ray.retrieval.encoder import EncoderActor, EncoderConfig, encode, model_folder
from hbt_ray.retrieval.search.faiss_index import IndexConfig
from hbt_ray.retrieval.search.saved_index import FoundDocument, SavedIndex, check_index_folder, save_index
from hbt_ray.storage import exclusive_lock


def build_index(
    encoder: EncoderConfig, documents: pa.Table, folder: Path, index: IndexConfig, screen: Screen
) -> SavedIndex:
    """Documents (doc_id, language, text) → a saved index. Needs a Ray session.

    Raises:
        LockedError: another command makes the index.
        TaskError: something else is in its place.
    """
    folder = check_index_folder(folder)  # What is wrong shows before anything is encoded.
    with exclusive_lock(folder, "indexing"):
        return _build_index(encoder, documents, folder, index, screen)


def _build_index(
    encoder: EncoderConfig, documents: pa.Table, folder: Path, index: IndexConfig, screen: Screen
) -> SavedIndex:
    screen.say(f"encoding {len(documents):,} documents")
    with screen.counting("encoding", len(documents)) as advance:
        encoded = encode(encoder, [], documents["text"], advance)
    screen.say(f"indexing ({index.factory})")
    here = model_folder(encoder.model)
    there = encoder.model_copy(update={"model": str(here.absolute()) if here else encoder.model})
    with screen.counting("indexing", len(documents)) as advance:
        made = save_index(
            folder, documents, encoded.passages, there, encoded.fingerprint, index, usable_cpus(), advance
        )
    counts = ", ".join(f"{language} {count:,}" for language, count in made.about.languages.items())
    screen.say(f"{folder}: {counts}")
    return made


def ask_index(
    index: SavedIndex, questions: Sequence[str], k: int, languages: Sequence[str], model: str = ""
) -> list[list[FoundDocument]]:
    """The first k documents for each question, in this process.

    Args:
        model: where the encoder is now, if it moved.
    """
    config = index.about.encoder.model_copy(update={"gpu": False, "workers": 1} | ({"model": model} if model else {}))
    model_folder(config.model)
    with quiet_transformers():
        encoder = EncoderActor(config)
    asked = encoder(pa.table({"number": range(len(questions)), "side": [0] * len(questions), "text": questions}))
    fingerprint = asked["fingerprint"][0].as_py()
    return index.search(np.stack(asked["vector"].to_numpy()), fingerprint, k, languages, usable_cpus())
