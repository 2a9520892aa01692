"""Rescoring of mined negatives by a cross-encoder, which reads question and passage together.

Its scores are those of a teacher to distil, as in Translate-Distill (2401.04810). It runs on Ray Data with a pool of
actors that hold one model each, as in `encoder`. The object store holds the texts once; blocks hold numbers of pairs
only. Scores are the model's raw output, since a sigmoid would saturate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from pydantic import Field

from hbt_ray.config import Config
from hbt_ray.data.index.permutation import Indices
from hbt_ray.errors import ModelError
from hbt_ray.host import usable_cpus
from hbt_ray.model.loading import find_model, load_cross_encoder
from hbt_ray.retrieval.encoder import map_blocks
from hbt_ray.retrieval.search.exact_scores import Floats


class RescorerConfig(Config):
    """A cross-encoder, and the settings with which it is run."""

    model: str
    """Folder or hub name of a cross-encoder with one output per pair."""
    batch_size: int = Field(64, gt=0)
    """Number of pairs in one forward pass."""
    workers: int = Field(1, gt=0)
    """Number of scoring processes. Without GPUs they share the CPU cores."""
    gpu: bool = False
    """Give each scoring process one GPU."""


def rescore(
    config: RescorerConfig,
    questions: Sequence[str],
    documents: Sequence[str],
    pairs: Indices,
    advance: Callable[[int], None] = lambda _: None,
) -> Floats:
    """The score of each pair, [pairs]; needs a Ray session.

    Args:
        pairs: [pairs, 2] numbers of a question and a document.
        advance: called after each block with its number of pairs.

    Raises:
        ModelError: the model cannot be loaded, is not a cross-encoder with one output, or a score is not finite.
    """
    lengths = [np.fromiter(map(len, texts), np.int64, len(texts)) for texts in (questions, documents)]
    # Longest first: if memory suffices for the first block, it suffices for all; and there is little padding.
    order = np.argsort(-lengths[0][pairs[:, 0]] - lengths[1][pairs[:, 1]], kind="stable")
    table = pa.table({"number": order, "question": pairs[order, 0], "document": pairs[order, 1]})
    rows = config.batch_size * 8  # eight forward passes per block
    blocks = [table.slice(start, rows) for start in range(0, len(table), rows)]
    # Passed within a list, since Ray would replace a reference at the top level by the texts.
    stored = [ray.put(pa.array(texts, pa.large_string())) for texts in (questions, documents)]
    scores = np.full(len(pairs), np.nan, np.float32)  # A pair that no block scores is refused below.
    failure = f"{config.model!r} could not score pairs"
    for block in map_blocks(blocks, _Rescorer, (config, stored), config.workers, gpu=config.gpu, failure=failure):
        scores[block["number"].to_numpy()] = block["score"].to_numpy()
        advance(len(block))
    if not np.isfinite(scores).all():
        raise ModelError(
            f"{config.model!r} gives scores that are not finite; its weights are damaged or overflow",
            code="MODEL_NOT_FINITE",
        )
    return scores


class _Rescorer:
    """One cross-encoder in one process, which Ray Data calls with tables of number, question and document."""

    def __init__(self, config: RescorerConfig, texts: Sequence[Any]) -> None:
        """`texts` holds references to the questions and to the documents."""
        import torch

        if not config.gpu:
            torch.set_num_threads(max(1, usable_cpus() // config.workers))
        self._model = load_cross_encoder(find_model(config.model), "cuda" if config.gpu else "cpu")
        self._raw, self._batch_size = torch.nn.Identity(), config.batch_size
        self._questions, self._documents = ray.get(list(texts))

    def __call__(self, block: pa.Table) -> pa.Table:
        sides = (self._questions.take(block["question"]), self._documents.take(block["document"]))
        pairs = list(zip(*(side.to_pylist() for side in sides), strict=True))
        scores = self._model.predict(
            pairs, batch_size=self._batch_size, activation_fn=self._raw, show_progress_bar=False
        )
        return pa.table({"number": block["number"], "score": scores.astype(np.float32)})
