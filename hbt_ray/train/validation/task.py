"""One validation: a checkpoint's folder in, its measures out; in a process of its own, beside training."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hbt_ray.data.store.store import Store
from hbt_ray.data.stream.tokens import Tokens, tokenise
from hbt_ray.errors import ModelError
from hbt_ray.train.checkpoints import checkpoint
from hbt_ray.train.engine.tower import Budget, Tower
from hbt_ray.train.model.encoder import tokenising
from hbt_ray.train.model.options import for_weights
from hbt_ray.train.settings import TrainConfig
from hbt_ray.train.validation.measure import Floats, measures
from hbt_ray.train.validation.pool import fingerprint, make_pool
from hbt_ray.train.validation.record import Record, Row

_CHUNK_ROWS = 64
_LEAST_PRIORITY = 19


def step_back(threads: int) -> None:
    """Take from training only what it leaves; for good, so only where a process serves validations alone."""
    os.setpriority(os.PRIO_PROCESS, 0, _LEAST_PRIORITY)
    torch.set_num_threads(threads)


def validate(settings: dict[str, Any], folder: Path, step: int) -> Row:
    """Measure the checkpoint in `folder`, made after `step` steps of the run of `settings`; write it on record.

    Whatever goes wrong is written there too, as the ranks wait for a line.
    """
    config = TrainConfig.model_validate(settings)
    begin = time.perf_counter()
    row: Row = {"step": step}
    try:
        judge = _judge(config.model_dump_json(), config.run.base.stat().st_mtime_ns)
        row["pool"] = judge.fingerprint
        row |= {**judge.measures(folder), "seconds": round(time.perf_counter() - begin, 3)}
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise
    finally:
        Record(config.run.validation).append(row)
    return row


@lru_cache(maxsize=1)
def _judge(settings: str, base_time: int) -> Judge:
    """Kept from one validation to the next where Ray gives them one process. A base that was replaced is read anew."""
    return Judge(TrainConfig.model_validate_json(settings))


class Judge:
    """The encoder and the pool's ids, for any checkpoint of a run."""

    def __init__(self, config: TrainConfig) -> None:
        assert config.validation.store is not None
        store = Store(config.validation.store, config.stream.cache)
        self._config = config.validation
        self._pool = make_pool(store, config.validation)
        self.fingerprint = fingerprint(store.manifest, config.validation)
        self._device = torch.device("cuda" if config.validation.gpu else "cpu")
        self._encoder = for_weights(config.run.base, config.model).to(self._device).eval()
        self._tower = Tower(
            self._encoder,
            padding_id=self._encoder.tokenizer.pad_token_id,
            budget=Budget(_CHUNK_ROWS, activation_tokens=0),
            world_size=1,
            device=self._device,
        )
        how = tokenising(self._encoder, config.model)
        tokenizer = how.tokenizer_json
        self._questions = tokenise(tokenizer, how.question_prompt, self._pool.questions, how.max_question_length)
        self._passages = tokenise(tokenizer, how.passage_prompt, self._pool.passages, how.max_passage_length)

    def measures(self, folder: Path) -> dict[str, float]:
        """Raises: CheckpointError for a damaged checkpoint; ModelError where vectors are not finite."""
        checkpoint.restore_weights(folder, self._encoder, averaged=True)
        questions, passages = self._encode(self._questions), self._encode(self._passages)
        if not (np.isfinite(questions).all() and np.isfinite(passages).all()):
            raise ModelError(f"{folder}: the encoder gives vectors that are not finite; its weights overflow")
        return measures(questions, passages, self._pool, self._config.temperature)

    def _encode(self, tokens: Tokens) -> Floats:
        """[rows, width], in float32 on any device."""
        vectors: Floats = self._tower.encode(tokens).vectors.cpu().numpy()
        return vectors
