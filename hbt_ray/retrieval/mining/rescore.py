"""Rescore: a cross-encoder reads question and passage together and scores the pair; the teacher of Translate-Distill.

Ray Data with a pool of actors that hold one model each, as in `encode`. The texts lie once in the object store; what
travels are numbers of pairs. Scores are the model's raw output: a sigmoid would crush what is far apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from pydantic import Field

from hbt_ray.config import Config
from hbt_ray.data.index.permutation import Indices
from hbt_ray.errors import ModelError
from hbt_ray.host import usable_cpus
from hbt_ray.model.loading import load_cross_encoder
from hbt_ray.model.source import find_model
from hbt_ray.ray_errors import WORKER_LIMITS, Guarded, guarded_batches
from hbt_ray.retrieval.search.exact_scores import Floats


class RescorerConfig(Config):
    """The cross-encoder, and how it is run."""

    model: str
    """A folder or a hub name, with one output a pair."""
    batch_size: int = Field(64, gt=0)
    """Pairs of one forward pass."""
    workers: int = Field(1, gt=0)
    """Actors; without a GPU they share the cores."""
    gpu: bool = False
    """One GPU an actor."""


def rescore(
    config: RescorerConfig,
    questions: Sequence[str],
    documents: Sequence[str],
    pairs: Indices,
    advance: Callable[[int], None] = lambda _: None,
) -> Floats:
    """The score of each pair; needs a Ray session.

    Args:
        pairs: [pairs, 2] numbers of a question and a document.
        advance: told of every batch how many pairs it has finished.

    Raises:
        ModelError: the model cannot be loaded, is no cross-encoder with one output, or gives scores not finite.
    """
    lengths = [np.fromiter(map(len, texts), np.int64, len(texts)) for texts in (questions, documents)]
    # Longest first: memory that suffices for the first batch suffices for all, and little is spent on padding.
    order = np.argsort(-lengths[0][pairs[:, 0]] - lengths[1][pairs[:, 1]], kind="stable")
    table = pa.table({"number": order, "question": pairs[order, 0], "document": pairs[order, 1]})
    block = config.batch_size * 8
    stored = [ray.put(pa.array(texts, pa.large_string())) for texts in (questions, documents)]
    dataset = ray.data.from_arrow([table.slice(at, block) for at in range(0, len(table), block)]).map_batches(
        Guarded,
        # A list within the arguments: Ray would put the texts in the place of references that it sees.
        fn_constructor_args=(_Rescorer, config, stored),
        batch_size=None,  # A block as it is.
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=config.workers),
        num_gpus=1 if config.gpu else None,
        **WORKER_LIMITS,
    )
    scores = np.full(len(pairs), np.nan, np.float32)
    for batch in guarded_batches(dataset, f"{config.model!r} could not score pairs"):
        scores[batch["number"].to_numpy()] = batch["score"].to_numpy()
        advance(len(batch))
    if not np.isfinite(scores).all():
        raise ModelError(f"{config.model!r} gives scores that are not finite; its weights are damaged or overflow")
    return scores


class _Rescorer:
    """One model in one process."""

    def __init__(self, config: RescorerConfig, texts: Sequence[Any]) -> None:
        import torch

        if not config.gpu:
            torch.set_num_threads(max(1, usable_cpus() // config.workers))
        self._model = load_cross_encoder(find_model(config.model), "cuda" if config.gpu else "cpu")
        self._raw, self._batch_size = torch.nn.Identity(), config.batch_size
        self._questions, self._documents = ray.get(list(texts))

    def __call__(self, batch: pa.Table) -> pa.Table:
        sides = (self._questions.take(batch["question"]), self._documents.take(batch["document"]))
        pairs = list(zip(*(side.to_pylist() for side in sides), strict=True))
        scores = self._model.predict(
            pairs, batch_size=self._batch_size, activation_fn=self._raw, show_progress_bar=False
        )
        return pa.table({"number": batch["number"], "score": scores.astype(np.float32)})
