"""The local batch: what one rank needs for one step, and the loader that makes it from (plan, store, tokenizer).

The loader is a pure function of (step, rank, world size), so it runs anywhere: in the training process, in a test, or
in Ray Data tasks on other machines (`hbt_ray.data.stream.stream`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hbt_ray.data.index.negatives import Negatives, require_scores
from hbt_ray.data.index.permutation import Indices
from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.data.plan.plan import Batch, Plan
from hbt_ray.data.store.node_cache import DEFAULT_CACHE, NodeCacheConfig
from hbt_ray.data.store.store import Store
from hbt_ray.data.stream.auxiliary_texts import AuxiliaryTexts, AuxiliaryTokens, scattered
from hbt_ray.data.stream.tokenise import Tokens, tokenise

_NO_TOKENS = Tokens(np.empty(0, np.int32), np.empty(0, np.int32))


def _no_numbers() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


def _no_scores() -> NDArray[np.float32]:
    return np.empty((0, 0), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class RankBatch:
    """One rank's slice of a global batch, ready for the encoder."""

    step: int
    kind: str
    dataset: str
    language: str
    items: Indices
    questions: Tokens
    passages: Tokens
    right_keys: NDArray[np.int64]
    """Keys of the passages that answer each row's question, [rows, n]: first that of the row's own passage, which is
    repeated where there are fewer than n. A passage with one of these keys is not a negative of the row's question."""
    negatives: Tokens = _NO_TOKENS
    """Mined passages, n for each row in the order of the rows, [rows · n]; one without tokens is none."""
    negative_keys: NDArray[np.int64] = field(default_factory=_no_numbers)
    """Their passage keys, [rows · n]; 0 for none."""
    question_languages: NDArray[np.int64] = field(default_factory=_no_numbers)
    """Positions in `Plan.languages`, [rows]."""
    passage_languages: NDArray[np.int64] = field(default_factory=_no_numbers)
    views: dict[str, Tokens] = field(default_factory=dict)
    """By name, row by row; a row without tokens has no version."""
    teacher_scores: NDArray[np.float32] = field(default_factory=_no_scores)
    """Of each question with its passage, then with its mined passages, [rows, 1 + n]; NaN where the teacher gave none.
    [0, 0] where nobody asked for them."""

    @property
    def passage_keys(self) -> NDArray[np.int64]:
        """Of the rows' own passages, [rows]."""
        return self.right_keys[:, 0]


@dataclass(frozen=True, slots=True)
class TokenisingConfig:
    """How the two sides become ids."""

    tokenizer_json: str
    question_prompt: str
    passage_prompt: str
    max_question_length: int
    max_passage_length: int


class Loader:
    """Plan, store and tokenizer, opened; with the folder of mined negatives where the plan asks for some.

    Args:
        views: what each batch renders beside its rows.
        scores: whether each batch brings the scores that its negatives were mined with.

    Raises:
        NegativesError: see `Negatives.open`; or scores are asked for where there are none.
        PlanError: see `Plan`; or the rule of a view cannot be read.
    """

    def __init__(
        self,
        store: str | Path,
        plan: PlanConfig,
        tokenising: TokenisingConfig,
        cache: NodeCacheConfig = DEFAULT_CACHE,
        negatives: Path | None = None,
        views: Sequence[AuxiliaryTexts] = (),
        *,
        scores: bool = False,
    ) -> None:
        self.store = Store(store, cache)
        mined = Negatives.open(negatives, self.store.manifest) if negatives else None
        self.plan = Plan(self.store.manifest, plan, mined)
        self._scored = require_scores(mined) if scores else None
        self._how = tokenising
        self._views = AuxiliaryTokens(views, self.store, self.plan)

    def local(self, step: int, rank: int, world_size: int) -> RankBatch:
        """The local batch of a rank."""
        return self.leg(range(step, step + 1), rank, world_size)[0]

    def leg(self, steps: range, rank: int, world_size: int) -> list[RankBatch]:
        """The local batches of a rank for some steps: one read of every data set, one pass of the tokenizer a side."""
        batches = [self.plan.batch(step).slice(rank, world_size) for step in steps]
        made: list[RankBatch] = []
        for name in dict.fromkeys(batch.dataset for batch in batches):
            made += self._of_dataset([batch for batch in batches if batch.dataset == name])
        return sorted(made, key=lambda batch: batch.step)

    def _of_dataset(self, batches: list[Batch]) -> list[RankBatch]:
        whole = Batch.joined(batches)
        texts = self.store.texts(whole, self.plan.languages)
        sizes = [len(batch.items) for batch in batches]
        ends = np.cumsum(sizes)[:-1]
        how = self._how
        questions = tokenise(how.tokenizer_json, how.question_prompt, texts.questions, how.max_question_length)
        passages = tokenise(how.tokenizer_json, how.passage_prompt, texts.passages, how.max_passage_length)
        negatives, negative_keys = self._negatives(whole)
        per_row = whole.negatives.shape[1]
        views = {name: tokens.split(sizes) for name, tokens in self._views.of(batches).items()}
        columns = (
            batches,
            questions.split(sizes),
            passages.split(sizes),
            np.split(texts.right_keys, ends),
            negatives.split([size * per_row for size in sizes]),
            np.split(negative_keys, ends * per_row),
            np.split(whole.question_languages.astype(np.int64), ends),
            np.split(whole.passage_languages.astype(np.int64), ends),
            [{name: parts[number] for name, parts in views.items()} for number in range(len(batches))],
            np.split(self._scored.scores(whole.dataset, whole.items, whole.negatives), ends)
            if self._scored
            else [_no_scores()] * len(batches),
        )
        return [
            RankBatch(batch.step, batch.kind, batch.dataset, batch.language, batch.items, *made)
            for batch, *made in zip(*columns, strict=True)
        ]

    def _negatives(self, batch: Batch) -> tuple[Tokens, NDArray[np.int64]]:
        """Tokens and passage keys of the mined passages, [rows · n], each in the language of its row's passage."""
        items = batch.negatives.ravel()
        there = np.flatnonzero(items >= 0)
        keys = np.zeros(len(items), np.int64)
        if not len(there):
            return scattered(_NO_TOKENS, there, len(items)), keys
        codes = np.repeat(batch.passage_languages, batch.negatives.shape[1])[there]
        texts = self.store.texts_of(batch.dataset, "passage", items[there], codes, self.plan.languages)
        keys[there] = self.store.passage_keys(batch.dataset, items[there])
        how = self._how
        tokens = tokenise(how.tokenizer_json, how.passage_prompt, texts, how.max_passage_length)
        return scattered(tokens, there, len(items)), keys
