"""The plan: the sequence of global batches, a pure function of (manifest, settings, step).

`Plan.batch(step)` decides everything that is trained on: the dataset, the kind, and for every row the item and its two
languages. No clock, no rank, no worker count and no iterator state enters, so any number of ranks, any resume point and
any two trials see the same batches; a checkpoint's whole data state is the step number and `Plan.identity`.

How a step is decided, each stage in O(log) from the one before:

    step ──▶ kind ──▶ dataset ──▶ language or pair ──▶ rows
          n-th of its kind  n-th of its dataset   n-th batch of this stream: elements n·B … n·B+B-1 of its walk,
                                                  a new keyed permutation of its items for every epoch
                                                  ──▶ mined negatives, if wanted (`hbt_ray.data.plan.negative_sampling`)
Bounds: with two kinds, in any window of n steps the monolingual ones differ from alpha·n by less than 1; a dataset or
language is off by less than 4 turns within its kind (`hbt_ray.data.plan.interleave`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from hbt_ray.data.index.language_index import LanguageCodes, LanguageIndex
from hbt_ray.data.index.manifest import DatasetInfo, Manifest
from hbt_ray.data.index.permutation import Indices, make_key
from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.data.plan.interleave import Interleaving
from hbt_ray.data.plan.kinds import BatchKind, Cross, CrossPair, Mixed, Mono
from hbt_ray.data.plan.mixing import Alpha
from hbt_ray.data.plan.mixing import alpha_before as alpha_before
from hbt_ray.data.plan.mixing import alpha_split as alpha_split
from hbt_ray.data.plan.mixing import alpha_values as alpha_values
from hbt_ray.data.plan.negative_sampling import NegativeSampler, no_negatives
from hbt_ray.errors import PlanError, PlanMismatch

if TYPE_CHECKING:  # Reading them needs Arrow; planning does not.
    from hbt_ray.data.index.negatives import Negatives

logger = logging.getLogger(__name__)

VERSION = 1
"""Of the function from settings to batches; a change here is another plan."""
_UNSAID = {"negatives": 0}
"""What an identity means that does not speak of it: checkpoints are older than mined negatives."""
_NAMED = 5
"""Streams that a warning names."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A global batch, or a rank's slice of one."""

    step: int
    kind: str
    """`mono`, `cross` or `mixed`."""
    dataset: str
    language: str
    """`de` of a monolingual batch, `de-en` of a cross-lingual one with a single pair, else empty."""
    items: Indices
    """Item numbers within the dataset, [rows]."""
    question_languages: LanguageCodes
    """Positions in `Plan.languages`, [rows]."""
    passage_languages: LanguageCodes
    negatives: Indices
    """Mined for the rows: item numbers that exist in the language of the row's passage, -1 for none, [rows, n]."""

    def slice(self, rank: int, world_size: int) -> Batch:
        """The local batch of a rank; slices of all ranks in order are the whole."""
        part = slice(len(self.items) * rank // world_size, len(self.items) * (rank + 1) // world_size)
        columns = (
            self.items[part],
            self.question_languages[part],
            self.passage_languages[part],
            self.negatives[part],
        )
        return Batch(self.step, self.kind, self.dataset, self.language, *columns)

    @staticmethod
    def concatenate(batches: Sequence[Batch]) -> Batch:
        """The rows of batches of one dataset, end to end, under the first one's name: for reading them at once."""
        rows = [(one.items, one.question_languages, one.passage_languages, one.negatives) for one in batches]
        first, columns = batches[0], (np.concatenate(column) for column in zip(*rows, strict=True))
        return Batch(first.step, first.kind, first.dataset, first.language, *columns)


class Plan:
    """See the module's text.

    Args:
        negatives: those of the store, opened; given where `config.negatives` asks for some, and only there.

    Raises:
        PlanError: the store cannot serve the policy; the text says what is missing.
    """

    def __init__(self, manifest: Manifest, config: PlanConfig, negatives: Negatives | None = None) -> None:
        self.config = config
        self.manifest, self._negatives = manifest, negatives
        self.languages = config.languages or manifest.languages
        if unknown := sorted(set(self.languages) - set(manifest.languages)):
            raise PlanError(
                f"plan.languages names {', '.join(unknown)}, but the store has only {', '.join(manifest.languages)}"
            )
        if unknown := sorted(config.dataset_weights.keys() - {info.name for info in manifest.datasets}):
            raise PlanError(
                f"plan.dataset_weights names {', '.join(unknown)}, but the store has only "
                f"{', '.join(info.name for info in manifest.datasets)}"
            )
        self.datasets = [info for info in manifest.datasets if config.dataset_weights.get(info.name, 1.0) > 0]
        coverages = [LanguageIndex(info, self.languages, config.language_exponent) for info in self.datasets]
        shares, other = alpha_values(config.mono_share), self._other_kind()
        self._weights = {info.name: self._weight(info) for info in self.datasets}
        self._kind_schedule = Interleaving.of_split(
            alpha_split(config.mono_share, config.schedule, make_key(config.seed, "kind"))
        )
        self._parts: dict[int, list[BatchKind]] = {}
        self._dataset_schedules: dict[int, Interleaving] = {}
        kinds: list[tuple[type[BatchKind], bool]] = [(Mono, max(shares) > 0), (other, min(shares) < 1)]
        for number, (kind, has_turns) in enumerate(kinds):
            if has_turns:
                parts = self._parts[number] = self._served(kind, coverages)
                key = make_key(config.seed, "dataset", number)
                self._dataset_schedules[number] = Interleaving(
                    [self._weights[p.name] for p in parts], config.schedule, key
                )
        self._picks = self._picks_of(coverages)
        self._warn_of_small_streams()

    def batch(self, step: int) -> Batch:
        """The global batch of a step: any step, in any order, always the same."""
        kind, nth = self._kind_schedule.locate(step)
        dataset, nth = self._dataset_schedules[kind].locate(nth)
        part = self._parts[kind][dataset]
        rows = part.rows(nth)
        picks = self._picks.get(part.name)
        negatives = picks.sample(rows, part.label) if picks else no_negatives(len(rows.items), self.config.negatives)
        columns = (rows.items, rows.question_languages, rows.passage_languages, negatives)
        return Batch(step, part.label, part.name, self._named(rows.shared_languages), *columns)

    def shares(self, serves: Callable[[tuple[str, ...]], bool]) -> dict[str, float]:
        """By kind the share of the rows, over whole epochs, of whose item's languages `serves` is true."""
        shares = {}
        for parts in self._parts.values():
            weights = [self._weights[part.name] for part in parts]
            shares[parts[0].label] = float(np.average([part.share(serves) for part in parts], weights=weights))
        return shares

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that the batches depend on, for the checkpoint."""
        settings = {"version": VERSION, "data": self.manifest.checksum, **self.config.model_dump(mode="json")}
        if self._negatives is None:
            # Without negatives a run is what it was before there were any: its checkpoints name none either.
            return {name: value for name, value in settings.items() if name != "negatives"}
        return {**settings, "negatives_data": self._negatives.checksum}

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]

    def require(self, saved: dict[str, Any], step: int) -> None:
        """Refuse to go on from a checkpoint of so many steps, made under a plan with this identity.

        Alpha may differ from that step on: the batches that were trained on are those of this plan as well.

        Raises:
            PlanMismatch: the plan was another one.
        """
        before, now = _UNSAID | saved, _UNSAID | self.identity
        for field in sorted(before.keys() | now.keys()):
            if before.get(field) != now.get(field) and not (field == "alpha" and self._same_so_far(saved, step)):
                raise PlanMismatch(f"plan.{field}", before.get(field), now.get(field))

    def _same_so_far(self, saved: dict[str, Any], step: int) -> bool:
        kind = self.config.schedule
        alpha = TypeAdapter[Alpha](Alpha).validate_python(saved.get("alpha"))
        return bool(alpha_before(alpha, step, kind) == alpha_before(self.config.alpha, step, kind))

    def _other_kind(self) -> type[BatchKind]:
        """What is not monolingual."""
        if self.config.policy == "mixed":
            return Mixed
        return Cross if self.config.cross == "rows" else CrossPair

    def _picks_of(self, coverages: list[LanguageIndex]) -> dict[str, NegativeSampler]:
        """By dataset; none where nothing was mined."""
        wanted, negatives = self.config.negatives, self._negatives
        if negatives is None:
            if wanted:
                raise PlanError(
                    f"plan.negatives={wanted} asks for mined negatives, but no folder of them is given; "
                    "set negatives=FOLDER to what `hbt mine` made, or plan.negatives=0"
                )
            return {}
        if not wanted:
            raise PlanError(
                f"negatives={negatives.path} does nothing while plan.negatives is 0; "
                "set plan.negatives to the number for each row, or leave the folder out"
            )
        mined = {coverage: rows for coverage in coverages if (rows := negatives.of(coverage.name)) is not None}
        without = sorted({coverage.name for coverage in coverages} - {coverage.name for coverage in mined})
        if not mined:
            raise PlanError(
                f"{negatives.path} holds negatives for none of the datasets in use ({', '.join(without)}); "
                "mine them with `hbt mine`, or set plan.negatives=0"
            )
        if without:
            logger.warning("no negatives were mined for %s: rows of these have none", ", ".join(without))
        return {
            coverage.name: NegativeSampler(rows, coverage, wanted, self.config.seed) for coverage, rows in mined.items()
        }

    def _weight(self, info: DatasetInfo) -> float:
        return float(info.num_items**self.config.dataset_exponent * self.config.dataset_weights.get(info.name, 1.0))

    def _served(self, kind: type[BatchKind], coverages: list[LanguageIndex]) -> list[BatchKind]:
        """The streams of one kind, one for each dataset that can serve it."""
        parts = [
            kind(coverage, self.config, make_key(self.config.seed, coverage.name, kind.label))
            for coverage in coverages
            if kind.can_serve(coverage)
        ]
        if not parts:
            raise PlanError(
                f"policy {self.config} needs {kind.needs}, but no dataset of the store has any (languages in use: "
                f"{', '.join(self.languages) or 'none'}). Choose another policy, or prepare parallel data."
            )
        return parts

    def _warn_of_small_streams(self) -> None:
        size = self.config.batch_size
        for part in (part for parts in self._parts.values() for part in parts):
            small = sorted((items, codes) for codes, items in part.streams.items() if items < size)
            if small:
                named = [f"{self._named(codes)} {items}".strip() for items, codes in small[:_NAMED]]
                more = [f"and {len(small) - _NAMED} more"] if len(small) > _NAMED else []
                logger.warning(
                    "dataset %s: %d of %d %s streams have fewer items than batch_size=%d, so items repeat in a batch: "
                    "%s; plan.languages leaves languages out, and plan.language_exponent=1 draws them by their items",
                    part.name,
                    len(small),
                    len(part.streams),
                    part.label,
                    size,
                    ", ".join(named + more),
                )

    def _named(self, codes: tuple[int, ...]) -> str:
        return "-".join(self.languages[code] for code in codes)
