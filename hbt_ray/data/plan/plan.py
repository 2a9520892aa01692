"""The plan: the sequence of global batches, a pure function of (manifest, settings, step).

`Plan.batch(step)` determines all training data: the dataset, the kind, and for every row the item and its two
languages. It uses no clock, rank, worker count or iterator state, so any number of ranks, any resume point and any two
trials get the same batches; the whole data state of a checkpoint is the step number and `Plan.identity`.

Each stage follows from the one before in O(log):

    step ──▶ kind ──▶ dataset ──▶ language or pair ──▶ rows
          n-th of its kind  n-th of its dataset   n-th batch of this stream: elements n·B … n·B+B-1 of its walk,
                                                  a new keyed permutation of its items for every epoch
                                                  ──▶ mined negatives, if any (`hbt_ray.data.plan.batch_kinds`)
Bounds: with two kinds, in any window of n steps the monolingual ones differ from alpha·n by less than 1; a dataset or
language is off by less than 4 turns within its kind (`hbt_ray.data.plan.interleave`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from hbt_ray.data.index.language_index import LanguageCodes, LanguageIndex
from hbt_ray.data.index.manifest import Manifest
from hbt_ray.data.index.permutation import Indices, make_key
from hbt_ray.data.plan.batch_kinds import BatchKind, Cross, CrossPair, Mixed, Mono, NegativeSampler, no_negatives
from hbt_ray.data.plan.config import Alpha, PlanConfig, alpha_before, alpha_split, alpha_values
from hbt_ray.data.plan.interleave import Interleaving
from hbt_ray.errors import PlanError, PlanMismatch

if TYPE_CHECKING:  # Reading negatives needs Arrow; planning does not.
    from hbt_ray.data.index.negatives import Negatives

logger = logging.getLogger(__name__)

ALGORITHM = {"version": 1, "schedule": "balanced"}
"""Version of the function from settings to batches, part of a plan's identity. A change here makes another plan."""
_WITHOUT_NEGATIVES = {"negatives": 0}
"""The identity of a plan without negatives does not contain `negatives`."""
_MAX_SHOWN = 5
"""Streams that a warning lists."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A global batch, or a rank's slice of one."""

    step: int
    kind: str
    """`mono`, `cross` or `mixed`."""
    dataset: str
    language: str
    """`de` for a monolingual batch, `de-en` for a cross-lingual batch with a single pair, else empty."""
    items: Indices
    """Item numbers within the dataset, [rows]."""
    question_languages: LanguageCodes
    """Positions in `Plan.languages`, [rows]."""
    passage_languages: LanguageCodes
    negatives: Indices
    """Mined negatives: item numbers that exist in the language of the row's passage, -1 for none, [rows, n]."""

    def slice(self, rank: int, world_size: int) -> Batch:
        """The rows of a rank; the slices of all ranks, in order, are the whole batch."""
        # Integer bounds: the slices cover all rows, and their sizes differ by at most one.
        part = slice(len(self.items) * rank // world_size, len(self.items) * (rank + 1) // world_size)
        columns = (column[part] for column in self._columns())
        return Batch(self.step, self.kind, self.dataset, self.language, *columns)

    def _columns(self) -> tuple[NDArray[Any], ...]:
        return self.items, self.question_languages, self.passage_languages, self.negatives

    @staticmethod
    def concatenate(batches: Sequence[Batch]) -> Batch:
        """Join batches of one dataset, so that their rows can be read at once; the step is that of the first batch."""
        first, rows = batches[0], [part._columns() for part in batches]
        columns = (np.concatenate(column) for column in zip(*rows, strict=True))
        return Batch(first.step, first.kind, first.dataset, first.language, *columns)


class Plan:
    """The sequence of global batches of a store under a configuration (see the docstring of the module).

    Args:
        negatives: the mined negatives of the store, opened; given if and only if `config.negatives` is not 0.

    Raises:
        PlanError: the store lacks data for the policy; the message names what is missing.
    """

    def __init__(self, manifest: Manifest, config: PlanConfig, negatives: Negatives | None = None) -> None:
        self.config = config
        self.manifest, self._negatives = manifest, negatives
        self.languages = config.languages or manifest.languages
        _require_known("languages", self.languages, manifest.languages)
        _require_known("dataset_weights", config.dataset_weights, [info.name for info in manifest.datasets])
        self.datasets = [info for info in manifest.datasets if config.dataset_weights.get(info.name, 1.0) > 0]
        indexes = [LanguageIndex(info, self.languages, config.language_exponent) for info in self.datasets]
        dataset_weights = {
            info.name: float(info.num_items**config.dataset_exponent * config.dataset_weights.get(info.name, 1.0))
            for info in self.datasets
        }
        self._kind_interleaving = Interleaving.of_split(alpha_split(config.mono_share, make_key(config.seed, "kind")))
        mono_shares = alpha_values(config.mono_share)
        self._kinds: dict[int, list[BatchKind]] = {}
        """Number of a kind (0 is monolingual) → its batches, by dataset."""
        self._dataset_interleavings: dict[int, Interleaving] = {}
        other_kind = Mixed if config.policy == "mixed" else Cross if config.cross == "rows" else CrossPair
        # A kind that alpha never uses is not built: the store need not have data for it.
        kinds: list[tuple[type[BatchKind], bool]] = [
            (Mono, max(mono_shares) > 0),
            (other_kind, min(mono_shares) < 1),
        ]
        # Number 0 is the left side of the split.
        for number, (kind, is_used) in enumerate(kinds):
            if is_used:
                self._kinds[number] = self._by_dataset(kind, indexes)
                weights = [dataset_weights[batches.name] for batches in self._kinds[number]]
                self._dataset_interleavings[number] = Interleaving(weights, make_key(config.seed, "dataset", number))
        self._negative_samplers = self._make_negative_samplers(indexes)
        self._warn_of_small_streams()

    def batch(self, step: int) -> Batch:
        """The global batch of a step, always the same one. Steps may be requested in any order."""
        # `nth` counts from here on within the kind, then within the dataset.
        kind, nth = self._kind_interleaving.locate(step)
        dataset, nth = self._dataset_interleavings[kind].locate(nth)
        batches = self._kinds[kind][dataset]
        rows = batches.rows(nth)
        if sampler := self._negative_samplers.get(batches.name):
            negatives = sampler.sample(rows, batches.label)
        else:
            negatives = no_negatives(len(rows.items), self.config.negatives)
        columns = (rows.items, rows.question_languages, rows.passage_languages, negatives)
        return Batch(step, batches.label, batches.name, self._language_names(rows.shared_languages), *columns)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that the batches depend on, for the checkpoint."""
        settings = {**ALGORITHM, "data": self.manifest.checksum, **self.config.model_dump(mode="json")}
        if self._negatives is None:
            return {name: value for name, value in settings.items() if name != "negatives"}
        return {**settings, "negatives_data": self._negatives.checksum}

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]

    def require(self, saved: dict[str, Any], step: int) -> None:
        """Refuse to continue from a checkpoint of `step` steps whose plan had another identity.

        Alpha may differ from that step on, because the earlier batches are then those of this plan as well.

        Raises:
            PlanMismatch: the checkpoint was made under another plan.
        """
        # A plan without negatives leaves the key out of its identity.
        before, now = _WITHOUT_NEGATIVES | saved, _WITHOUT_NEGATIVES | self.identity
        for field in sorted(before.keys() | now.keys()):
            if before.get(field) != now.get(field) and not (field == "alpha" and self._has_same_prefix(saved, step)):
                raise PlanMismatch(f"plan.{field}", before.get(field), now.get(field))

    def _has_same_prefix(self, saved: dict[str, Any], step: int) -> bool:
        # A checkpoint stores alpha as plain JSON; parsed, both sides have the same types.
        alpha = TypeAdapter[Alpha](Alpha).validate_python(saved.get("alpha"))
        return bool(alpha_before(alpha, step) == alpha_before(self.config.alpha, step))

    def _make_negative_samplers(self, indexes: list[LanguageIndex]) -> dict[str, NegativeSampler]:
        """Dataset → sampler, for the datasets that were mined."""
        per_row, negatives = self.config.negatives, self._negatives
        if negatives is None:
            if per_row:
                raise PlanError(
                    f"plan.negatives={per_row} asks for mined negatives, but there is no folder of them; "
                    "set negatives=FOLDER to the output of `hbt mine`, or plan.negatives=0",
                    code="PLAN_NEGATIVES",
                )
            return {}
        if not per_row:
            raise PlanError(
                f"negatives={negatives.path} has no effect while plan.negatives is 0; "
                "set plan.negatives to the number for each row, or leave the folder out",
                code="PLAN_NEGATIVES",
            )
        # Keyed by the index itself, which the sampler needs.
        tables = {index: table for index in indexes if (table := negatives.table(index.name)) is not None}
        without = sorted({index.name for index in indexes} - {index.name for index in tables})
        if not tables:
            raise PlanError(
                f"{negatives.path} holds negatives for none of the datasets in use ({', '.join(without)}); "
                "mine them with `hbt mine`, or set plan.negatives=0",
                code="PLAN_NEGATIVES",
            )
        if without:
            logger.warning("no negatives were mined for %s: their rows have none", ", ".join(without))
        return {index.name: NegativeSampler(table, index, per_row, self.config.seed) for index, table in tables.items()}

    def _by_dataset(self, kind: type[BatchKind], indexes: list[LanguageIndex]) -> list[BatchKind]:
        """The batches of one kind, for each dataset that has data for it."""
        batches = [
            kind(index, self.config, make_key(self.config.seed, index.name, kind.label))
            for index in indexes
            if kind.can_serve(index)
        ]
        if not batches:
            raise PlanError(
                f"policy {self.config} needs {kind.needs}, but no dataset of the store has any (languages in use: "
                f"{', '.join(self.languages) or 'none'}). Choose another policy, or prepare parallel data.",
                code="PLAN_POLICY",
            )
        return batches

    def _warn_of_small_streams(self) -> None:
        size = self.config.batch_size
        for batches in (batches for kinds in self._kinds.values() for batches in kinds):
            streams = batches.streams
            # The smallest streams first.
            small = sorted((items, codes) for codes, items in streams.items() if items < size)
            if small:
                shown = [f"{self._language_names(codes)} {items}".strip() for items, codes in small[:_MAX_SHOWN]]
                shown += [f"and {len(small) - _MAX_SHOWN} more"] if len(small) > _MAX_SHOWN else []
                logger.warning(
                    f"dataset {batches.name}: {len(small)} of {len(streams)} {batches.label} streams have fewer items "
                    f"than batch_size={size}, so items repeat in a batch: {', '.join(shown)}; plan.languages leaves "
                    "languages out, and plan.language_exponent=1 draws them by their items"
                )

    def _language_names(self, codes: tuple[int, ...]) -> str:
        return "-".join(self.languages[code] for code in codes)


def _require_known(field: str, names: Iterable[str], known: Sequence[str]) -> None:
    if unknown := sorted(set(names) - set(known)):
        raise PlanError(
            f"plan.{field} names {', '.join(unknown)}, but the store has only {', '.join(known)}",
            code="PLAN_UNKNOWN_NAME",
        )
