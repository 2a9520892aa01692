"""One validation: a checkpoint's folder in, its measures out; in a process of its own, beside training."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hbt_ray.data.store.store import Store
from hbt_ray.data.stream.tokenise import Tokens
from hbt_ray.errors import ModelError
from hbt_ray.model.build import tokenising_config
from hbt_ray.model.options import load_for_checkpoint
from hbt_ray.retrieval.transforms.fit import fit_to_store
from hbt_ray.retrieval.transforms.methods import PASSAGE, QUESTION, Method
from hbt_ray.train.checkpoint.format import restore_weights
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.step.grad_cache import EncodeLimits, GradCacheEncoder
from hbt_ray.train.validation.dev_set import Floats, dev_measures, fingerprint, make_dev_set
from hbt_ray.train.validation.record import Row, ValidationRecord

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
        row["dev_set"] = judge.fingerprint
        row |= {**judge.measures(folder), "seconds": round(time.perf_counter() - begin, 3)}
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise
    finally:
        ValidationRecord(config.run.validation).append(row)
    return row


@lru_cache(maxsize=1)
def _judge(settings: str, base_time: int) -> Validator:
    """Kept from one validation to the next where Ray gives them one process. A base that was replaced is read anew."""
    return Validator(TrainConfig.model_validate_json(settings))


class EncodedDevSet(NamedTuple):
    """What a fix is fitted to."""

    questions: Floats
    passages: Floats
    fingerprint: str


class Validator:
    """The encoder and the pool's ids, for any checkpoint of a run."""

    def __init__(self, config: TrainConfig) -> None:
        assert config.validation.store is not None
        store = Store(config.validation.store, config.stream.cache)
        self._config = config.validation
        self._pool = make_dev_set(store, config.validation)
        self.fingerprint = fingerprint(store.manifest, config.validation)
        self._device = torch.device("cuda" if config.validation.gpu else "cpu")
        self._encoder = load_for_checkpoint(config.run.base, config.model).to(self._device).eval()
        self._tower = GradCacheEncoder(
            self._encoder,
            padding_id=self._encoder.tokenizer.pad_token_id,
            limits=EncodeLimits(_CHUNK_ROWS, activation_tokens=0),
            world_size=1,
            device=self._device,
        )
        self._how = tokenising_config(self._encoder, config.model)
        self._questions, self._passages = self._tokens(self._pool.questions, self._pool.passages)

    def measures(self, folder: Path) -> dict[str, float]:
        """Raises: CheckpointError for a damaged checkpoint; ModelError where vectors are not finite."""
        return dev_measures(*self._pool_vectors(folder), self._pool, self._config.temperature)

    def transformed_measures(
        self, folder: Path, store: Store, methods: Sequence[Method]
    ) -> dict[str, dict[str, float]]:
        """With each fix of the vectors, fitted to texts of `store`: kind → measures.

        Raises:
            ConfigError: a method asks for more than the store has.
        """
        questions, passages = self._pool_vectors(folder)
        found = {}
        for method in methods:
            fix = fit_to_store(store, method, self._encode_texts)
            fixed = [
                fix.apply(vectors, [self._pool.languages[code] for code in codes], side)
                for vectors, codes, side in (
                    (questions, self._pool.question_languages, QUESTION),
                    (passages, self._pool.passage_languages, PASSAGE),
                )
            ]
            found[method.kind] = dev_measures(fixed[0], fixed[1], self._pool, self._config.temperature)
        return found

    def _pool_vectors(self, folder: Path) -> tuple[Floats, Floats]:
        restore_weights(folder, self._encoder, averaged=True)
        questions, passages = self._encode(self._questions), self._encode(self._passages)
        if not (np.isfinite(questions).all() and np.isfinite(passages).all()):
            raise ModelError(f"{folder}: the encoder gives vectors that are not finite; its weights overflow")
        return questions, passages

    def _encode_texts(self, questions: Sequence[str], passages: Sequence[str]) -> EncodedDevSet:
        asked, answers = self._tokens(questions, passages)
        return EncodedDevSet(self._encode(asked), self._encode(answers), fingerprint="")

    def _tokens(self, questions: Sequence[str], passages: Sequence[str]) -> tuple[Tokens, Tokens]:
        return self._how.questions(list(questions)), self._how.passages(list(passages))

    def _encode(self, tokens: Tokens) -> Floats:
        """[rows, width], in float32 on any device."""
        if not len(tokens):
            return np.empty((0, self._encoder.get_embedding_dimension() or 0), np.float32)
        vectors: Floats = self._tower.encode(tokens).vectors.cpu().numpy()
        return vectors
