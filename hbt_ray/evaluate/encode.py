"""Encode: texts to vectors, with Ray Data and a pool of actors that hold one model each.

Every text is encoded once, however often it occurs, and texts of about equal length share a batch, so that little is
spent on padding and equal texts get equal vectors to the last bit.
"""

from __future__ import annotations

import hashlib
import os
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray.data
from pydantic import Field

from hbt_ray.config import Config
from hbt_ray.errors import ModelError

Vectors = npt.NDArray[np.float32]


class EncoderConfig(Config):
    """The model under judgement, and how it is run."""

    model: str
    """A SentenceTransformer or Hugging Face folder, or a hub name."""
    question_prompt: str | None = None
    """Written before every question; by default what the model's own configuration says."""
    passage_prompt: str | None = None
    max_length: int | None = Field(None, gt=2)
    """Tokens of the longest text; by default the model's own."""
    batch_size: int = Field(64, gt=0)
    """Texts of one forward pass."""
    workers: int = Field(1, gt=0)
    """Actors; without a GPU they share the cores."""
    gpu: bool = False
    """One GPU an actor."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Vectors of all texts, unit length unless the model says that it wants the dot product."""

    questions: Vectors
    """[questions, width]"""
    passages: Vectors
    fingerprint: str
    """Of weights, tokenizer, prompts and length."""
    peak_memory_bytes: int
    """Largest resident set of any one encoder process."""


def encode(
    config: EncoderConfig,
    questions: Sequence[str],
    passages: Sequence[str],
    advance: Callable[[int], None] = lambda _: None,
) -> Encoded:
    """Vectors of questions and passages, in order; needs a Ray session.

    `advance` is told of every batch how many of the given texts it has finished.

    Raises:
        ModelError: the model cannot be loaded, or gives vectors that are not finite.
    """
    sides, texts, places = _unique(questions, passages)
    occurrences = np.bincount(places, minlength=len(texts))
    # Longest first: the largest batch comes first, and memory that suffices for it suffices for all.
    order = np.lexsort((-np.fromiter(map(len, texts), np.int64, len(texts)), sides))
    table = pa.table({"number": order, "side": sides[order], "text": pa.array([texts[row] for row in order])})
    block = config.batch_size * 8
    dataset = ray.data.from_arrow([table.slice(at, block) for at in range(0, len(table), block)]).map_batches(
        _Encoder,
        fn_constructor_args=(config,),
        batch_size=config.batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=config.workers),
        num_gpus=1 if config.gpu else None,
    )
    vectors: Vectors | None = None
    fingerprint, peak = "", 0
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            found = np.stack(batch["vector"].to_numpy())
            vectors = np.empty((len(texts), found.shape[1]), np.float32) if vectors is None else vectors
            numbers = batch["number"].to_numpy()
            vectors[numbers] = found
            advance(int(occurrences[numbers].sum()))
            fingerprint, peak = batch["fingerprint"][0].as_py(), max(peak, batch["memory"][-1].as_py())
    except ray.exceptions.RayError as error:
        raise ModelError(f"{config.model!r} could not encode: {last_line(error)}") from error
    if vectors is None or not np.isfinite(vectors).all():
        raise ModelError(f"{config.model!r} gives vectors that are not finite; its weights are damaged or overflow")
    return Encoded(vectors[places[: len(questions)]], vectors[places[len(questions) :]], fingerprint, peak)


def _unique(
    questions: Sequence[str], passages: Sequence[str]
) -> tuple[npt.NDArray[np.int8], list[str], npt.NDArray[np.int64]]:
    """Distinct (side, text), and for every question, then every passage, which one it is."""
    numbers: dict[tuple[int, str], int] = {}
    places = [
        numbers.setdefault((side, text), len(numbers))
        for side, texts in enumerate((questions, passages))
        for text in texts
    ]
    return np.array([side for side, _ in numbers], np.int8), [text for _, text in numbers], np.array(places, np.int64)


class _Encoder:
    """One model in one process."""

    def __init__(self, config: EncoderConfig) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        if not config.gpu:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.workers))
        self._model = SentenceTransformer(config.model, device="cuda" if config.gpu else "cpu")
        for name, prompt in (("query", config.question_prompt), ("document", config.passage_prompt)):
            if prompt is not None:
                self._model.prompts[name] = prompt
        if config.max_length:
            self._model.max_seq_length = config.max_length
            self._model[0].query_length = self._model[0].document_length = None  # They would win over it.
        self._batch_size = config.batch_size
        self._unit = self._model.similarity_fn_name != "dot"
        self._fingerprint = _fingerprint(self._model)

    def __call__(self, batch: pa.Table) -> pa.Table:
        sides = batch["side"].to_numpy()
        texts = batch["text"].to_pylist()
        vectors = np.empty((len(texts), self._model.get_embedding_dimension()), np.float32)
        for side, run in ((0, self._model.encode_query), (1, self._model.encode_document)):
            rows = np.flatnonzero(sides == side)
            if len(rows):
                chosen = [texts[row] for row in rows]
                vectors[rows] = run(
                    chosen, batch_size=self._batch_size, normalize_embeddings=self._unit, show_progress_bar=False
                )
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return pa.table(
            {
                "number": batch["number"],
                "vector": pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1]),
                "fingerprint": [self._fingerprint] * len(texts),
                "memory": [memory] * len(texts),
            }
        )


def _fingerprint(model: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if "pooler" in name.split("."):  # Unused, and where the folder lacks it, drawn anew whenever it is loaded.
            continue
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(dtype=_bytes()).numpy())
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    digest.update((backend.to_str() if backend else repr(model.tokenizer)).encode())
    digest.update(repr((sorted(model.prompts.items()), model.max_seq_length, model.similarity_fn_name)).encode())
    return digest.hexdigest()[:16]


def _bytes() -> Any:
    import torch

    return torch.uint8


def last_line(error: BaseException) -> str:
    """Of a Ray error, whose first lines are tracebacks of other processes."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def model_folder(model: str) -> Path | None:
    """The folder of a local model, or None for a hub name. Raises: ModelError for a folder without a model."""
    folder = Path(model)
    if not folder.exists():
        if folder.is_absolute() or model.startswith("."):
            raise ModelError(f"{model}: no such folder")
        return None
    if not any((folder / name).exists() for name in ("modules.json", "config.json")):
        raise ModelError(f"{model}: neither modules.json nor config.json is there, so it is no encoder")
    return folder
