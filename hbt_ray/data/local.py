"""The local batch: what one rank needs for one step, and the loader that makes it from (plan, store, tokenizer).

The loader is a pure function of (step, rank, world size), so it runs anywhere: in the training process, in a test, or
in Ray Data tasks on other machines (`hbt_ray.data.stream`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hbt_ray.data.cache import DEFAULT, CacheConfig
from hbt_ray.data.keyed import Indices
from hbt_ray.data.plan import Batch, Plan
from hbt_ray.data.policy import PlanConfig
from hbt_ray.data.store import Store
from hbt_ray.data.tokens import Tokens, tokenise

_NO_TOKENS = Tokens(np.empty(0, np.int32), np.empty(0, np.int32))


@dataclass(frozen=True, slots=True, eq=False)
class LocalBatch:
    """One rank's slice of a global batch, ready for the encoder."""

    step: int
    kind: str
    dataset: str
    language: str
    items: Indices
    questions: Tokens
    passages: Tokens
    passage_keys: NDArray[np.int64]
    """Equal keys share a passage and are no negatives of one another, [rows]."""
    negatives: Tokens = _NO_TOKENS
    """Mined passages, n for each row in the order of the rows, [rows · n]; an empty one is none."""
    negative_keys: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """[rows · n]"""


@dataclass(frozen=True, slots=True)
class TokenisingConfig:
    """How the two sides become ids."""

    tokenizer_json: str
    question_prompt: str
    passage_prompt: str
    max_question_length: int
    max_passage_length: int


class Loader:
    """Plan, store and tokenizer, opened."""

    def __init__(
        self, store: str | Path, plan: PlanConfig, tokenising: TokenisingConfig, cache: CacheConfig = DEFAULT
    ) -> None:
        self.store = Store(store, cache)
        self.plan = Plan(self.store.manifest, plan)
        self._how = tokenising

    def local(self, step: int, rank: int, world_size: int) -> LocalBatch:
        """The local batch of a rank."""
        return self.leg(range(step, step + 1), rank, world_size)[0]

    def leg(self, steps: range, rank: int, world_size: int) -> list[LocalBatch]:
        """The local batches of a rank for some steps: one read of every data set, one pass of the tokenizer a side."""
        batches = [self.plan.batch(step).slice(rank, world_size) for step in steps]
        made: list[LocalBatch] = []
        for name in dict.fromkeys(batch.dataset for batch in batches):
            made += self._of_dataset([batch for batch in batches if batch.dataset == name])
        return sorted(made, key=lambda batch: batch.step)

    def _of_dataset(self, batches: list[Batch]) -> list[LocalBatch]:
        texts = self.store.texts(Batch.joined(batches), self.plan.languages)
        sizes = [len(batch.items) for batch in batches]
        how = self._how
        questions = tokenise(how.tokenizer_json, how.question_prompt, texts.questions, how.max_question_length)
        passages = tokenise(how.tokenizer_json, how.passage_prompt, texts.passages, how.max_passage_length)
        keys = np.split(texts.passage_keys, np.cumsum(sizes)[:-1])
        return [
            LocalBatch(batch.step, batch.kind, batch.dataset, batch.language, batch.items, asked, found, key)
            for batch, asked, found, key in zip(
                batches, questions.split(sizes), passages.split(sizes), keys, strict=True
            )
        ]
