"""Versions: in which other language a row's question or passage is shown again, for terms that compare renderings.

A rule says which: `other` (another language of the item, drawn evenly), `pivot:LANG` (LANG; where the row is in LANG
already, another one, drawn evenly), `exactly:LANG` (LANG, also where the row is in it). A draw is a function of (seed,
step, side, item), so no number of ranks and no resume changes it, and views of one side and one rule agree. Whether a
row has a version follows from its item alone, by every rule, whatever the language that the row was drawn in.
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
_Kind = Literal["other", "pivot", "exactly"]

NONE = -1
"""In the place of a language code: the row has no version."""
LOW_SHARE = 0.5
"""Of the rows of a kind; below it, what a term says of a batch is said of the lesser part of it."""


@dataclass(frozen=True, slots=True)
class TranslationRule:
    """Which language a version is in; `str` is what `parse` reads."""

    kind: _Kind
    language: str = ""
    """Of `pivot` and `exactly`."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises: PlanError where it is no rule."""
        kind, colon, language = text.partition(":")
        if kind in get_args(_Kind) and bool(colon) == bool(language) == (kind != "other"):
            return cls(kind, language)  # type: ignore[arg-type]  # Looked up in the line above.
        raise PlanError(f"{text!r} is no rule for versions; write other, pivot:LANG or exactly:LANG, such as pivot:en")

    def serves(self, languages: Collection[str], in_use: Collection[str]) -> bool:
        """Whether a row of an item in these languages has a version, when rows are drawn in the languages in use."""
        rest = set(languages) & set(in_use) - {self.language}
        if self.kind == "other":
            return len(rest) > 1
        return self.language in languages and (self.kind == "exactly" or bool(rest))

    def __str__(self) -> str:
        return f"{self.kind}:{self.language}" if self.language else self.kind


class TranslationSampler:
    """The versions of one side of the items of one dataset.

    Args:
        languages: all languages of the plan.
        seed: of the plan.
    """

    def __init__(
        self, info: DatasetInfo, languages: tuple[str, ...], side: Side, rule: TranslationRule, seed: int
    ) -> None:
        self.languages = languages if rule.language in ("", *languages) else (*languages, rule.language)
        """Names of the codes: those of the plan, then the rule's own where the plan does not train on it."""
        self._side, self._rule, self._seed = side, rule, seed
        self._coverage = LanguageIndex(info, languages, 0.0)
        if rule.language:
            self._code = self.languages.index(rule.language)
            self._named = LanguageIndex(info, (rule.language,), 0.0)

    def sample(self, batch: Batch) -> LanguageCodes:
        """Positions in `languages`, -1 for none, [rows]; of a slice, the slice of the whole's."""
        if self._rule.kind == "other":
            return self._other(batch)
        has = self._named.have(batch.items[:, None], np.zeros(len(batch.items), np.int16))[:, 0]
        named = np.where(has, self._code, NONE).astype(np.int16)
        if self._rule.kind == "exactly":
            return named
        return np.where(named == self._own(batch), self._other(batch), named)

    def _other(self, batch: Batch) -> LanguageCodes:
        chance = uniform(make_key(self._seed, "version", self._side, batch.step), batch.items)
        return self._coverage.draw_other(batch.items, self._own(batch), chance)

    def _own(self, batch: Batch) -> LanguageCodes:
        return batch.question_languages if self._side == "question" else batch.passage_languages


def require_translations(plan: Plan, name: str, rule: str) -> dict[str, float]:
    """Ask, before any worker starts, whether the data can serve a view; a low share is warned of.

    Args:
        name: of the view, for messages.

    Returns:
        Kind of batch → the share of its rows that have a version, over whole epochs; exact, from the manifest.

    Raises:
        PlanError: no row can have a version; the text says what is missing.
    """
    asked = TranslationRule.parse(rule)
    if asked.language and asked.language not in plan.manifest.languages:
        raise PlanError(
            f"{name}: {rule} asks for texts in {asked.language}, but the store has only "
            f"{', '.join(plan.manifest.languages)}; name one of these, or prepare the data with {asked.language}"
        )
    shares = plan.shares(lambda languages: asked.serves(languages, plan.languages))
    if not any(shares.values()):
        missing = "is there in another language too" if asked.kind != "exactly" else f"is there in {asked.language}"
        raise PlanError(
            f"{name}: {rule} asks for parallel texts, but no item that the plan uses {missing} (languages in use: "
            f"{', '.join(plan.languages)}); prepare parallel data, or leave out what asks for {name}"
        )
    if low := {kind: share for kind, share in shares.items() if share < LOW_SHARE}:
        told = ", ".join(f"{share:.1%} of the rows of {kind} batches" for kind, share in low.items())
        logger.warning("%s: %s is there for only %s; the others count nothing in what asks for it", name, rule, told)
    return shares
