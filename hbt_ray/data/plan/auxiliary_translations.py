"""Languages of the rows' translations, for loss terms that compare a question or passage with its translation.

A rule chooses the language. `other`: another language of the item, drawn evenly. `pivot:LANG`: LANG, or another one
drawn evenly if the row is in LANG already. `exactly:LANG`: LANG, also if the row is in LANG.

A draw is a function of (seed, step, side, item), so neither the number of ranks nor a resume changes it, and two
auxiliary texts with the same side and rule get the same language. Under every rule, whether a row has a translation
depends on its item alone and not on the language drawn for the row.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np

from hbt_ray.data.index.language_index import LanguageCodes, LanguageIndex
from hbt_ray.data.index.manifest import DatasetInfo
from hbt_ray.data.index.permutation import make_key, uniform
from hbt_ray.data.plan.plan import Batch, Plan
from hbt_ray.errors import PlanError

logger = logging.getLogger(__name__)

Side = Literal["question", "passage"]
_RuleKind = Literal["other", "pivot", "exactly"]

NO_TRANSLATION = -1
"""Language code of a row without a translation."""
LOW_SHARE = 0.5
"""Warn if fewer than this share of the items have a translation: a loss term then describes a minority."""


@dataclass(frozen=True, slots=True)
class TranslationRule:
    """Rule for the language of a translation. `parse` is the inverse of `str`."""

    kind: _RuleKind
    language: str = ""
    """Language of `pivot` and `exactly`; empty for `other`."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a rule.

        Raises:
            PlanError: the text is not a rule.
        """
        kind, colon, language = text.partition(":")
        # `other` stands alone; the two others need a colon and a language.
        if kind in get_args(_RuleKind) and bool(colon) == bool(language) == (kind != "other"):
            return cls(kind, language)  # type: ignore[arg-type]  # Checked in the line above.
        raise PlanError(
            f"{text!r} is not a rule for translations; write other, pivot:LANG or exactly:LANG, such as pivot:en",
            code="TRANSLATION_RULE",
        )

    def serves(self, languages: Collection[str], in_use: Collection[str]) -> bool:
        """Whether a row of an item in these languages has a translation, if rows are drawn in the languages in use."""
        others = set(languages) & set(in_use) - {self.language}
        if self.kind == "other":
            return len(others) > 1
        return self.language in languages and (self.kind == "exactly" or bool(others))

    def __str__(self) -> str:
        return f"{self.kind}:{self.language}" if self.language else self.kind


class TranslationSampler:
    """The languages of the translations of one side of a dataset's items.

    Args:
        languages: all languages of the plan.
        seed: seed of the plan.
    """

    def __init__(
        self, info: DatasetInfo, languages: tuple[str, ...], side: Side, rule: TranslationRule, seed: int
    ) -> None:
        self.languages = languages if rule.language in ("", *languages) else (*languages, rule.language)
        """Names of the codes: the plan's languages, then the rule's language if the plan does not train on it."""
        self._side, self._rule, self._seed = side, rule, seed
        self._index = LanguageIndex(info, languages, 0.0)
        if rule.language:
            self._rule_code = self.languages.index(rule.language)
            self._rule_index = LanguageIndex(info, (rule.language,), 0.0)

    def sample(self, batch: Batch) -> LanguageCodes:
        """Positions in `languages`, -1 for none, [rows]. For a rank's slice it is the slice of the global result."""
        if self._rule.kind == "other":
            return self._other(batch)
        # `_rule_index` has the rule's language alone, so its code is 0.
        exists = self._rule_index.exist_in(batch.items[:, None], np.zeros(len(batch.items), np.int16))[:, 0]
        codes = np.where(exists, self._rule_code, NO_TRANSLATION).astype(np.int16)
        if self._rule.kind == "exactly":
            return codes
        # Rows that are in the pivot language already get another language.
        return np.where(codes == self._row_languages(batch), self._other(batch), codes)

    def _other(self, batch: Batch) -> LanguageCodes:
        # Indexed by item and not by row, so that a rank's slice draws the same numbers.
        chance = uniform(make_key(self._seed, "version", self._side, batch.step), batch.items)
        return self._index.draw_other(batch.items, self._row_languages(batch), chance)

    def _row_languages(self, batch: Batch) -> LanguageCodes:
        return batch.question_languages if self._side == "question" else batch.passage_languages


def require_translations(plan: Plan, name: str, rule: str) -> None:
    """Check, before any worker starts, that the data has translations; warn if few items have one.

    Args:
        name: setting or loss term that needs the translations, for messages.

    Raises:
        PlanError: no item can have a translation; the message names what is missing.
    """
    parsed = TranslationRule.parse(rule)
    if parsed.language and parsed.language not in plan.manifest.languages:
        raise PlanError(
            f"{name}: {rule} asks for texts in {parsed.language}, but the store has only "
            f"{', '.join(plan.manifest.languages)}; name one of these, or prepare the data with {parsed.language}",
            code="NO_TRANSLATIONS",
        )
    # By groups of languages: no item is read.
    groups = [group for info in plan.datasets for group in info.groups if {*group.languages} & {*plan.languages}]
    translated = [group for group in groups if parsed.serves(group.languages, plan.languages)]
    num_items, num_translated = (sum(group.num_items for group in chosen) for chosen in (groups, translated))
    if not num_translated:
        needed = f"in {parsed.language}" if parsed.kind == "exactly" else "in another language too"
        raise PlanError(
            f"{name}: {rule} asks for parallel texts, but no item that the plan uses exists {needed} (languages in "
            f"use: {', '.join(plan.languages)}); prepare parallel data, or leave out what asks for {name}",
            code="NO_TRANSLATIONS",
        )
    if num_translated < LOW_SHARE * num_items:
        logger.warning(
            "%s: %s exists for only %.1f%% of the items that the plan uses; the term leaves the others out",
            name,
            rule,
            100 * num_translated / num_items,
        )
