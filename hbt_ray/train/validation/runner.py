"""One validation: restore a checkpoint, encode the dev set, record its measures. Runs in a process beside training."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from hbt_ray.data.store.store import Store
from hbt_ray.errors import ModelError
from hbt_ray.model.trainable_encoder import load_for_checkpoint
from hbt_ray.retrieval.encoder import EncodedTexts, encode_texts
from hbt_ray.retrieval.transforms.fit import fit_to_store
from hbt_ray.retrieval.transforms.methods import PASSAGE, QUESTION, Method
from hbt_ray.retrieval.vectors import PASSAGES, QUESTIONS, Vectors
from hbt_ray.storage import AnyPath, local_folder
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.checkpoint.format import restore_weights
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.validation.dev_set import dev_measures, fingerprint, make_dev_set
from hbt_ray.train.validation.record import ValidationRecord, ValidationRow

_BATCH_SIZE = 64
_LOWEST_PRIORITY = 19


def lower_priority(num_threads: int) -> None:
    """Leave the CPU to training. It cannot be undone, so the process must serve validations alone."""
    os.setpriority(os.PRIO_PROCESS, 0, _LOWEST_PRIORITY)
    torch.set_num_threads(num_threads)


def validate(settings: dict[str, Any], step: int) -> ValidationRow:
    """Measure the checkpoint of a step and add the row to the record of the run with these settings.

    Errors are recorded as well, since the ranks wait for a row.
    """
    config = TrainConfig.model_validate(settings)
    begin = time.perf_counter()
    row: ValidationRow = {"step": step}
    try:
        base = local_folder(config.run.base)
        validator = _cached_validator(config.model_dump_json(), base.stat().st_mtime_ns)
        row["dev_set"] = validator.fingerprint
        folder = CheckpointDirectory(config.run.checkpoints).path(step)
        row |= {**validator.measures(folder), "seconds": round(time.perf_counter() - begin, 3)}
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise
    finally:  # After a failure, too: without a row the ranks would wait for the timeout.
        ValidationRecord(config.run.validation).add(row)
    return row


@lru_cache(maxsize=1)
def _cached_validator(settings: str, base_mtime: int) -> Validator:
    """Kept for the next validation if Ray runs it in the same process. A base that was replaced is loaded again."""
    return Validator(TrainConfig.model_validate_json(settings))


class Validator:
    """Encoder and dev set of a run, for any of its checkpoints."""

    def __init__(self, config: TrainConfig) -> None:
        assert config.validation.store is not None
        store = Store(config.validation.store, config.stream.cache)
        self._config = config.validation
        self._dev_set = make_dev_set(store, config.validation)
        self.fingerprint = fingerprint(store.manifest, config.validation)
        device = "cuda" if config.validation.gpu else "cpu"
        self._encoder = load_for_checkpoint(local_folder(config.run.base), config.model).to(device).eval()

    def measures(self, folder: AnyPath) -> dict[str, float]:
        """Measures of the checkpoint in a folder."""
        vectors = self._dev_vectors(folder)
        return self._measures(vectors.questions, vectors.passages)

    def transformed_measures(
        self, folder: AnyPath, store: Store, methods: Sequence[Method]
    ) -> dict[str, dict[str, float]]:
        """Measures with each post-hoc transform, fitted to texts of the store: kind → measures."""
        dev_set, vectors = self._dev_set, self._dev_vectors(folder)
        question_languages, passage_languages = (
            [dev_set.languages[code] for code in codes]
            for codes in (dev_set.question_languages, dev_set.passage_languages)
        )
        measures = {}
        for method in methods:
            transform = fit_to_store(store, method, self._encode)
            measures[method.kind] = self._measures(
                transform.apply(vectors.questions, question_languages, QUESTION),
                transform.apply(vectors.passages, passage_languages, PASSAGE),
            )
        return measures

    def _measures(self, questions: Vectors, passages: Vectors) -> dict[str, float]:
        return dev_measures(questions, passages, self._dev_set, self._config.temperature)

    def _dev_vectors(self, folder: AnyPath) -> EncodedTexts:
        restore_weights(folder, self._encoder, averaged=True)
        vectors = self._encode(self._dev_set.questions, self._dev_set.passages)
        if not (np.isfinite(vectors.questions).all() and np.isfinite(vectors.passages).all()):
            raise ModelError(
                f"{folder}: the encoder gives vectors that are not finite; its weights overflow. Train with a lower "
                "learning rate or optimiser.precision=fp32",
                code="MODEL_NOT_FINITE",
            )
        return vectors

    def _encode(self, questions: Sequence[str], passages: Sequence[str]) -> EncodedTexts:
        return EncodedTexts(
            encode_texts(self._encoder, questions, QUESTIONS, _BATCH_SIZE),
            encode_texts(self._encoder, passages, PASSAGES, _BATCH_SIZE),
        )
