"""Views: sides of the rows rendered a second time, in the language of a version and by any tokenizer.

What compares renderings asks for them: the student's own of a question in another language, or a teacher's of the
English passage, which has a tokenizer of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hbt_ray.data.index.permutation import Indices
from hbt_ray.data.plan.plan import Batch, Plan
from hbt_ray.data.plan.translations import Side, TranslationRule, TranslationSampler
from hbt_ray.data.store.store import Store
from hbt_ray.data.stream.tokenise import Tokens, tokenise
from hbt_ray.errors import StoreError


@dataclass(frozen=True, slots=True)
class AuxiliaryTexts:
    """What is rendered, and how it becomes ids."""

    name: str
    """Of its tokens in `LocalBatch.views`."""
    side: Side
    rule: str
    """`other`, `pivot:LANG` or `exactly:LANG` (`hbt_ray.data.plan.translations`)."""
    tokenizer_json: str = field(repr=False)
    prompt: str
    max_length: int


class AuxiliaryTokens:
    """The views of a plan's batches.

    Raises:
        PlanError: a rule cannot be read.
    """

    def __init__(self, views: Sequence[AuxiliaryTexts], store: Store, plan: Plan) -> None:
        self._store = store
        self._versions = {
            (view.name, info.name): TranslationSampler(
                info, plan.languages, view.side, TranslationRule.parse(view.rule), plan.config.seed
            )
            for view in views
            for info in plan.datasets
        }
        self._views = views

    def of(self, batches: Sequence[Batch]) -> dict[str, Tokens]:
        """By name the tokens of the rows of batches of one dataset, end to end; none where a row has no version.

        Raises:
            StoreError: a shard cannot be read, or lacks a text that the manifest promises.
        """
        return {view.name: self._tokens(view, batches) for view in self._views}

    def _tokens(self, view: AuxiliaryTexts, batches: Sequence[Batch]) -> Tokens:
        dataset = batches[0].dataset
        versions = self._versions[view.name, dataset]
        codes = np.concatenate([versions.of(batch) for batch in batches])
        items = np.concatenate([batch.items for batch in batches])
        there = np.flatnonzero(codes >= 0)
        texts = self._store.texts_of(dataset, view.side, items[there], codes[there], versions.languages)
        if not all(texts):
            row = there[texts.index("")]
            raise StoreError(
                f"{self._store.location}: item {items[row]} of {dataset} lacks the {view.side} in "
                f"{versions.languages[codes[row]]} that the manifest promises; `hbt store verify` tells what is damaged"
            )
        return scattered(tokenise(view.tokenizer_json, view.prompt, texts, view.max_length), there, len(codes))


def scattered(tokens: Tokens, rows: Indices, num_rows: int) -> Tokens:
    """The tokens as those of `rows`, ascending, out of so many; the other rows have none."""
    lengths = np.zeros(num_rows, np.int32)
    lengths[rows] = tokens.lengths
    return Tokens(tokens.ids, lengths)
