"""Hard-negative mining: run a model over a store to find passages that only seem to answer a question.

Datasets are mined one by one, since a batch holds one dataset. For each: encode questions and distinct passages in one
language (`encoder`), search (`ShardedIndex`), choose (`candidates`), and write item numbers
(`hbt_ray.data.index.negatives`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hbt_ray.console import Screen
from hbt_ray.data.index.manifest import DatasetInfo, Manifest
from hbt_ray.data.index.negatives import MinedDataset, NegativesManifest, TeacherScores, write_manifest, write_rows
from hbt_ray.data.store.store import Store
from hbt_ray.errors import ConfigError
from hbt_ray.retrieval.encoder import EncodedTexts, EncoderConfig, encode
from hbt_ray.retrieval.mining.candidates import (
    DROP_REASONS,
    Candidates,
    ChosenNegatives,
    MineConfig,
    choose_negatives,
    read_candidates,
)
from hbt_ray.retrieval.mining.rescore import RescorerConfig, rescore
from hbt_ray.retrieval.search.exact_scores import pair_scores
from hbt_ray.retrieval.search.sharded_index import SearchConfig, ShardedIndex
from hbt_ray.storage import atomic_folder, exclusive_lock

_PAIRS = 1 << 20
"""Questions × ranks that are searched and filtered at a time: about 50 MB."""


class MinedExample(NamedTuple):
    """A question with its own passage and its hardest negative."""

    dataset: str
    question: str
    positive: str
    positive_score: float
    negative: str
    negative_score: float


@dataclass(frozen=True, slots=True)
class MiningResult:
    """The manifest of the mined negatives, and some examples to read."""

    manifest: NegativesManifest
    examples: tuple[MinedExample, ...]


def languages_to_mine(store: Manifest, config: MineConfig) -> dict[str, str]:
    """Dataset → language to mine it in; datasets that lack the configured language are left out.

    Raises:
        ConfigError: no dataset has the language, or the store lacks a configured dataset.
    """
    chosen, language = store.chosen(config.datasets), config.language
    if language is None:
        counts = {info.name: info.items_by_language for info in chosen}
        # Ties go to the first by name, so that the choice is deterministic.
        return {name: max(sorted(by), key=by.__getitem__) for name, by in counts.items() if by}
    mined = {info.name: language for info in chosen if language in info.languages}
    if not mined:
        present = sorted({each for info in chosen for each in info.languages})
        raise ConfigError(
            f"language={language}: no item of the store has it; mine in one of {', '.join(present)}",
            code="UNKNOWN_LANGUAGE",
        )
    return mined


def check_output_folder(folder: Path) -> Path:
    """The folder, unchanged. Raises ConfigError if it exists and is not empty, as it may hold hours of work."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder}: exists already; nothing was changed. Give another --out, or remove it first",
            code="OUTPUT_EXISTS",
        )
    return folder


def mine(
    store: Store,
    encoder: EncoderConfig,
    config: MineConfig,
    folder: Path,
    *,
    name: str,
    rescorer: RescorerConfig | None = None,
    search: SearchConfig | None = None,
    screen: Screen | None = None,
) -> MiningResult:
    """Mine every dataset of a store into `folder`, which is written completely or not at all. Needs a Ray session.

    Args:
        name: name of the model in the manifest.
        rescorer: cross-encoder whose scores replace those of the model after the negatives are chosen. Default: keep
            the scores of the model.
        screen: shows progress. Default: show none.

    Raises:
        LockedError: another command mines into `folder`.
        ConfigError: no dataset has the language, `folder` is not empty, or no negative is left.
        ModelError, TaskError, ResourceError: see `encode`, `rescore` and `ShardedIndex`.
    """
    screen = screen or Screen(silent=True)
    languages = languages_to_mine(store.manifest, config)
    mined, examples, fingerprint = [], [], ""
    models = {"encoder": encoder} | ({"rescorer": rescorer} if rescorer else {})
    # Lock before the check, so that two commands cannot both find the folder unused.
    with exclusive_lock(folder, "mining"), atomic_folder(check_output_folder(folder)) as scratch:
        for info in store.manifest.chosen(config.datasets):
            language = languages.get(info.name)
            if language is None:
                screen.log(f"{info.name}: no item has {config.language}, so nothing is mined")
                continue
            candidates = read_candidates(store, info, language)
            label = f"{info.name} ({language})"
            num_questions, num_documents = len(candidates.questions), len(candidates.documents)
            screen.log(f"{label}: encoding {num_questions:,} questions and {num_documents:,} distinct passages")
            with screen.progress(f"{label}: encoding", num_questions + num_documents) as advance:
                encoded = encode(encoder, candidates.questions, candidates.documents, advance)
            with screen.progress(f"{label}: searching", num_questions) as advance:
                negatives = search_negatives(candidates, encoded, config, search, advance)
            # Before rescoring: examples show the scores by which negatives were chosen.
            examples += _examples(info.name, candidates, negatives)
            if rescorer:
                negatives = _rescored(rescorer, candidates, negatives, label, screen)
            mined.append(_write(scratch, info, language, candidates, negatives))
            fingerprint = encoded.fingerprint
        if not any(record.num_negatives for record in mined):
            reasons = [f"{sum(record.dropped[reason] for record in mined):,} {reason}" for reason in DROP_REASONS]
            raise ConfigError(
                f"no passage of ranks {config.ranks[0]} to {config.ranks[1]} is a negative of any question (dropped: "
                f"{', '.join(reasons)}); widen ranks, raise max_share or lower margin",
                code="NOTHING_MINED",
            )
        manifest = NegativesManifest(
            store=store.manifest.checksum,
            model=name,
            fingerprint=fingerprint,
            teacher=rescorer.model if rescorer else name,
            keep=config.keep,
            settings=config.model_dump(mode="json") | {key: run.model_dump(mode="json") for key, run in models.items()},
            datasets=tuple(mined),
        )
        write_manifest(scratch, manifest)
    return MiningResult(manifest, tuple(examples))


def search_negatives(
    candidates: Candidates,
    encoded: EncodedTexts,
    config: MineConfig,
    search: SearchConfig | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> ChosenNegatives:
    """The negatives of all questions, with their canonical scores."""
    num_questions, num_documents = len(candidates.questions), len(candidates.documents)
    positive = pair_scores(encoded.questions, encoded.passages, np.arange(num_questions), candidates.positives)
    # Leading zeros make the order of the ids that of the numbers, which ties follow.
    ids = [f"{number:012d}" for number in range(num_documents)]
    parts: list[ChosenNegatives] = []
    depth = config.ranks[1] + 1  # one more, since the question's own passage does not count
    step = max(1, _PAIRS // depth)
    with ShardedIndex(ids, ["all"] * num_documents, encoded.passages, search) as index:
        for start in range(0, num_questions, step):
            rows = slice(start, min(start + step, num_questions))
            hits = index.search(encoded.questions[rows], depth)
            parts.append(choose_negatives(candidates, rows, hits.documents, hits.scores, positive[rows], config))
            advance(rows.stop - rows.start)
    documents, scores, dropped, _ = zip(*parts, strict=True)
    return ChosenNegatives(np.concatenate(documents), np.concatenate(scores), np.sum(dropped, axis=0), positive)


def _rescored(
    rescorer: RescorerConfig, candidates: Candidates, negatives: ChosenNegatives, label: str, screen: Screen
) -> ChosenNegatives:
    """The same negatives with the scores of a cross-encoder."""
    documents = negatives.documents
    row, place = np.nonzero(documents >= 0)
    # The pairs of questions with their own passages, then those with their negatives.
    question = np.concatenate([np.arange(len(documents)), row])
    pairs = np.column_stack([question, np.concatenate([candidates.positives, documents[row, place]])])
    screen.log(f"{label}: scoring {len(pairs):,} pairs with {rescorer.model}")
    with screen.progress(f"{label}: scoring", len(pairs)) as advance:
        rescored = rescore(rescorer, candidates.questions, candidates.documents, pairs, advance)
    scores = np.full(documents.shape, np.nan, np.float32)
    scores[row, place] = rescored[len(documents) :]
    return negatives._replace(scores=scores, positive=rescored[: len(documents)])


def _write(
    folder: Path, info: DatasetInfo, language: str, candidates: Candidates, chosen: ChosenNegatives
) -> MinedDataset:
    documents = chosen.documents
    # From rows of the candidates to numbers of the dataset's items; items without the language get -1 and NaN.
    negatives = np.full((info.num_items, documents.shape[1]), -1, dtype=np.int64)
    negatives[candidates.items] = np.where(documents < 0, -1, candidates.document_items[documents])
    scored = TeacherScores(np.full(info.num_items, np.nan, np.float32), np.full(negatives.shape, np.nan, np.float32))
    scored.positive[candidates.items], scored.negatives[candidates.items] = chosen.positive, chosen.scores
    file, checksum = write_rows(folder, info.name, negatives, scored)
    return MinedDataset(
        name=info.name,
        language=language,
        file=file,
        sha256=checksum,
        num_items=info.num_items,
        num_questions=len(candidates.questions),
        num_served=int((negatives[:, 0] >= 0).sum()),
        num_negatives=int((negatives >= 0).sum()),
        dropped=dict(zip(DROP_REASONS, chosen.dropped.tolist(), strict=True)),
    )


def _examples(dataset: str, candidates: Candidates, negatives: ChosenNegatives, limit: int = 3) -> list[MinedExample]:
    """At most `limit` of the questions that have a negative, evenly spaced."""
    hardest = negatives.documents[:, 0]
    served = np.flatnonzero(hardest >= 0)
    rows = served[np.linspace(0, len(served) - 1, min(limit, len(served)), dtype=np.int64)]
    return [
        MinedExample(
            dataset,
            candidates.questions[row],
            candidates.documents[candidates.positives[row]],
            float(negatives.positive[row]),
            candidates.documents[hardest[row]],
            float(negatives.scores[row, 0]),
        )
        for row in rows.tolist()
    ]
