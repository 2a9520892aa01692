"""The loader makes the batches of one rank: plan → slice of the global batch → texts of the store → token ids.

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
from hbt_ray.data.plan.auxiliary_translations import Side, TranslationRule, TranslationSampler
from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.data.plan.plan import Batch, Plan
from hbt_ray.data.store.node_cache import DEFAULT_CACHE, NodeCacheConfig
from hbt_ray.data.store.store import Store
from hbt_ray.data.stream.rank_batch import NEGATIVES, PASSAGES, QUESTIONS, RankBatch
from hbt_ray.data.stream.tokenise import TokenisingConfig, Tokens, TokenSections, tokenise


@dataclass(frozen=True, slots=True)
class AuxiliaryTexts:
    """Further texts of one side of the rows: in another language, or for another tokenizer.

    Loss terms that compare translations need them: a question in another language for the student, or the English
    passage for a teacher.
    """

    name: str
    """Section of `RankBatch.texts`."""
    side: Side
    rule: str
    """`other`, `pivot:LANG` or `exactly:LANG` (`hbt_ray.data.plan.auxiliary_translations`)."""
    tokenizer_json: str = field(repr=False)
    prompt: str
    max_length: int


@dataclass(frozen=True, slots=True)
class LoaderConfig:
    """Settings of a loader, which are sent to the tasks of a stream."""

    store: str | Path
    plan: PlanConfig
    tokenising: TokenisingConfig
    cache: NodeCacheConfig = DEFAULT_CACHE
    negatives: Path | None = None
    """Folder of mined negatives; needed if `plan.negatives` is not 0."""
    auxiliary_texts: tuple[AuxiliaryTexts, ...] = ()
    teacher_scores: bool = False
    """Whether the batches contain the teacher's scores that are stored with the negatives."""

    def open(self) -> Loader:
        return Loader(self)


class Loader:
    """Plan, store and tokenizers, opened.

    Raises:
        NegativesError: see `Negatives.open`; or the negatives lack the teacher's scores that the settings require.
        PlanError: see `Plan`; or the rule of an auxiliary text cannot be parsed.
    """

    def __init__(self, config: LoaderConfig) -> None:
        self.store = Store(config.store, config.cache)
        negatives = Negatives.open(config.negatives, self.store.manifest) if config.negatives else None
        self.plan = Plan(self.store.manifest, config.plan, negatives)
        # None if no loss term uses scores.
        self._scored_negatives = require_scores(negatives) if config.teacher_scores else None
        self._tokenising, self._auxiliary_texts = config.tokenising, config.auxiliary_texts
        self._num_positive_keys = max(info.max_right for info in self.plan.datasets)
        self._translations = {
            (texts.name, info.name): TranslationSampler(
                info, self.plan.languages, texts.side, TranslationRule.parse(texts.rule), self.plan.config.seed
            )
            for texts in config.auxiliary_texts
            for info in self.plan.datasets
        }

    def rank_batch(self, step: int, rank: int, world_size: int) -> RankBatch:
        """The batch of a rank for one step."""
        return self.rank_batches(range(step, step + 1), rank, world_size)[0]

    def rank_batches(self, steps: range, rank: int, world_size: int) -> list[RankBatch]:
        """The batches of a rank for a window of steps, read dataset by dataset and tokenised section by section.

        Raises:
            StoreError: a shard cannot be read, or lacks a text that the manifest lists.
        """
        slices = [self.plan.batch(step).slice(rank, world_size) for step in steps]
        batches: list[RankBatch] = []
        # Datasets in the order of their first step, without repetitions.
        for dataset in dict.fromkeys(batch.dataset for batch in slices):
            batches += self._load([batch for batch in slices if batch.dataset == dataset])
        # They were loaded dataset by dataset.
        return sorted(batches, key=lambda batch: batch.step)

    def _load(self, slices: list[Batch]) -> list[RankBatch]:
        """The rank's slices of some global batches of one dataset, with their texts."""
        window = Batch.concatenate(slices)
        texts = self.store.texts(window, self.plan.languages)
        num_negatives = window.negatives.shape[1]
        negatives, negative_keys = self._negatives(window)
        sections = {
            QUESTIONS: self._tokenising.questions(texts.questions),
            PASSAGES: self._tokenising.passages(texts.passages),
            NEGATIVES: negatives,
            **{auxiliary.name: self._translated(auxiliary, slices) for auxiliary in self._auxiliary_texts},
        }
        # One width for all datasets of the plan, because the batches of a window share a table; keys may repeat.
        missing = self._num_positive_keys - texts.positive_keys.shape[1]
        positive_keys = np.hstack([texts.positive_keys, texts.positive_keys[:, :1].repeat(missing, axis=1)])
        scores = None
        if self._scored_negatives:
            scores = self._scored_negatives.scores(window.dataset, window.items, window.negatives)
        batches, first = [], 0
        for part in slices:
            rows = slice(first, first + len(part.items))
            # n consecutive negatives for each row.
            of_negatives = slice(rows.start * num_negatives, rows.stop * num_negatives)
            first = rows.stop
            batch = RankBatch(
                part.step,
                part.kind,
                part.dataset,
                part.language,
                part.items,
                TokenSections.concatenate(
                    {name: tokens[of_negatives if name == NEGATIVES else rows] for name, tokens in sections.items()}
                ),
                positive_keys[rows],
                part.question_languages.astype(np.int64),
                part.passage_languages.astype(np.int64),
                negative_keys[of_negatives],
                *([] if scores is None else [scores[rows]]),
            )
            batches.append(batch)
        return batches

    def _negatives(self, batch: Batch) -> tuple[Tokens, NDArray[np.int64]]:
        """Tokens and passage keys of the mined passages, [rows · n], each in the language of its row's passage."""
        items = batch.negatives.ravel()
        present = np.flatnonzero(items >= 0)
        keys = np.zeros(len(items), np.int64)
        texts: list[str] = []
        if len(present):
            # Language of each negative: that of its row's passage, [rows · n].
            codes = np.repeat(batch.passage_languages, batch.negatives.shape[1])[present]
            texts = self.store.texts_of(batch.dataset, "passage", items[present], codes, self.plan.languages)
            keys[present] = self.store.passage_keys(batch.dataset, items[present])
        # Only existing negatives are read and tokenised; the others get length 0.
        return self._tokenising.passages(texts).scattered(present, len(items)), keys

    def _translated(self, auxiliary: AuxiliaryTexts, slices: Sequence[Batch]) -> Tokens:
        """Auxiliary texts of the rows of all slices, [rows]; missing for rows without a translation."""
        dataset = slices[0].dataset
        sampler = self._translations[auxiliary.name, dataset]
        # Slice by slice, because a draw depends on the step.
        codes = np.concatenate([sampler.sample(batch) for batch in slices])
        items = np.concatenate([batch.items for batch in slices])
        present = np.flatnonzero(codes >= 0)
        texts = self.store.texts_of(
            dataset, auxiliary.side, items[present], codes[present], sampler.languages, required=True
        )
        tokens = tokenise(auxiliary.tokenizer_json, auxiliary.prompt, texts, auxiliary.max_length)
        return tokens.scattered(present, len(codes))
