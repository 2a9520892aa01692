"""Mining: a model run over a store, to find for every item the passages that only seem to answer its question.

Dataset by dataset, as a batch is of one: encode questions and distinct passages in one language (`encode`), search
(`ShardedIndex`), choose (`candidates`), write item numbers (`hbt_ray.data.index.negatives`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    MineConfig,
    NegativeChoice,
    choose_negatives,
    read_candidates,
)
from hbt_ray.retrieval.mining.rescore import RescorerConfig, rescore
from hbt_ray.retrieval.search.exact_scores import Floats, pair_scores
from hbt_ray.retrieval.search.sharded_index import SearchConfig, ShardedIndex
from hbt_ray.storage import atomic_folder

_PAIRS = 1 << 20
"""Questions times ranks that are searched and sifted at a time: some 50 MB."""


class MinedExample(NamedTuple):
    """A question with its own passage and the hardest negative that was found."""

    dataset: str
    question: str
    positive: str
    positive_score: float
    negative: str
    negative_score: float


@dataclass(frozen=True, slots=True)
class MiningResult:
    """What was made, and some of it to look at."""

    manifest: NegativesManifest
    examples: tuple[MinedExample, ...]


def languages_to_mine(store: Manifest, config: MineConfig) -> dict[str, str]:
    """Dataset → the language that it is mined in; without those that do not have the one that is asked for.

    Raises:
        ConfigError: no dataset has the language, or the store lacks one that is named.
    """
    chosen, language = store.chosen(config.datasets), config.language
    if language is None:
        counts = {info.name: info.items_by_language for info in chosen}
        # Of equals the first by name, so that the choice is the same at every call.
        return {name: max(sorted(by), key=by.__getitem__) for name, by in counts.items() if by}
    found = {info.name: language for info in chosen if language in info.languages}
    if not found:
        there = sorted({each for info in chosen for each in info.languages})
        raise ConfigError(f"language={language}: no item of the store has it; mine in one of {', '.join(there)}")
    return found


def check_output_folder(folder: Path) -> Path:
    """Raises: ConfigError where something is there already, which could be hours of work."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: is there already, so it is left alone; give another --out, or remove it first")
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
    """Mine every dataset of a store into `folder`, which appears whole or not at all. Needs a Ray session.

    Args:
        name: what the manifest calls the model.
        rescorer: a cross-encoder whose scores are kept in place of the model's; it chooses no negatives.
        screen: told what happens, for progress; by default nobody is.

    Raises:
        ConfigError: no dataset has the language, something is in the place of `folder`, or no negative was found.
        ModelError, TaskError, ResourceError: see `encode`, `rescore` and `ShardedIndex`.
    """
    screen = screen or Screen(silent=True)
    languages = languages_to_mine(store.manifest, config)
    mined, examples, fingerprint = [], [], ""
    runs = {"encoder": encoder} | ({"rescorer": rescorer} if rescorer else {})
    with atomic_folder(check_output_folder(folder)) as scratch:
        for info in store.manifest.chosen(config.datasets):
            language = languages.get(info.name)
            if language is None:
                screen.log(f"{info.name}: no item has {config.language}, so nothing is mined")
                continue
            candidates = read_candidates(store, info, language)
            what = f"{info.name} ({language})"
            encoded = _encoded(encoder, candidates, what, screen)
            with screen.progress(f"{what}: searching", len(candidates.questions)) as advance:
                found = search_negatives(candidates, encoded, config, search, advance)
            examples += _examples(info.name, candidates, found)
            if rescorer:
                found = _rescored(rescorer, candidates, found, what, screen)
            mined.append(_write(scratch, info, language, candidates, found))
            fingerprint = encoded.fingerprint
        _require_some(mined, config)
        manifest = NegativesManifest(
            store=store.manifest.checksum,
            model=name,
            fingerprint=fingerprint,
            teacher=rescorer.model if rescorer else name,
            keep=config.keep,
            settings=config.model_dump(mode="json") | {part: run.model_dump(mode="json") for part, run in runs.items()},
            datasets=tuple(mined),
        )
        write_manifest(scratch, manifest)
    return MiningResult(manifest, tuple(examples))


def _require_some(mined: Sequence[MinedDataset], config: MineConfig) -> None:
    if not any(record.num_negatives for record in mined):
        reasons = [f"{sum(record.dropped[reason] for record in mined):,} {reason}" for reason in DROP_REASONS]
        raise ConfigError(
            f"no passage of ranks {config.ranks[0]} to {config.ranks[1]} is a negative of any question (left out: "
            f"{', '.join(reasons)}); widen ranks, raise max_share or lower margin"
        )


def _encoded(encoder: EncoderConfig, candidates: Candidates, what: str, screen: Screen) -> EncodedTexts:
    num_questions, num_documents = len(candidates.questions), len(candidates.documents)
    screen.log(f"{what}: encoding {num_questions:,} questions and {num_documents:,} distinct passages")
    with screen.progress(f"{what}: encoding", num_questions + num_documents) as advance:
        return encode(encoder, candidates.questions, candidates.documents, advance)


class SearchResult(NamedTuple):
    """What a model finds for the questions of a dataset."""

    choice: NegativeChoice
    positive: Floats
    """[questions], the score of each with its own passage."""


def search_negatives(
    candidates: Candidates,
    encoded: EncodedTexts,
    config: MineConfig,
    search: SearchConfig | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> SearchResult:
    """The negatives of all questions, with their canonical scores."""
    num_questions, num_documents = len(candidates.questions), len(candidates.documents)
    positive = pair_scores(encoded.questions, encoded.passages, np.arange(num_questions), candidates.positives)
    ids = [f"{number:012d}" for number in range(num_documents)]
    parts: list[NegativeChoice] = []
    depth = config.ranks[1] + 1  # One more: the question's own passage.
    step = max(1, _PAIRS // depth)
    with ShardedIndex(ids, ["all"] * num_documents, encoded.passages, search) as index:
        for start in range(0, num_questions, step):
            rows = slice(start, min(start + step, num_questions))
            hits = index.search(encoded.questions[rows], depth)
            parts.append(choose_negatives(candidates, rows, hits.documents, hits.scores, positive[rows], config))
            advance(rows.stop - rows.start)
    documents, scores, dropped = zip(*parts, strict=True)
    return SearchResult(
        NegativeChoice(np.concatenate(documents), np.concatenate(scores), np.sum(dropped, axis=0)), positive
    )


def _rescored(
    rescorer: RescorerConfig, candidates: Candidates, found: SearchResult, what: str, screen: Screen
) -> SearchResult:
    """The same negatives with the scores of a cross-encoder."""
    documents, _, dropped = found.choice
    row, place = np.nonzero(documents >= 0)
    asked = np.concatenate([np.arange(len(documents)), row])
    pairs = np.column_stack([asked, np.concatenate([candidates.positives, documents[row, place]])])
    screen.log(f"{what}: scoring {len(pairs):,} pairs with {rescorer.model}")
    with screen.progress(f"{what}: scoring", len(pairs)) as advance:
        given = rescore(rescorer, candidates.questions, candidates.documents, pairs, advance)
    scores = np.full(documents.shape, np.nan, np.float32)
    scores[row, place] = given[len(documents) :]
    return SearchResult(NegativeChoice(documents, scores, dropped), given[: len(documents)])


def _write(folder: Path, info: DatasetInfo, language: str, candidates: Candidates, found: SearchResult) -> MinedDataset:
    documents, scores, dropped = found.choice
    negatives = np.full((info.num_items, documents.shape[1]), -1, dtype=np.int64)
    negatives[candidates.items] = np.where(documents < 0, -1, candidates.document_items[documents])
    scored = TeacherScores(np.full(info.num_items, np.nan, np.float32), np.full(negatives.shape, np.nan, np.float32))
    scored.positive[candidates.items], scored.negatives[candidates.items] = found.positive, scores
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
        dropped=dict(zip(DROP_REASONS, dropped.tolist(), strict=True)),
    )


def _examples(dataset: str, candidates: Candidates, found: SearchResult, limit: int = 3) -> list[MinedExample]:
    """Some questions that have a negative, evenly spaced."""
    documents, scores, _ = found.choice
    served = np.flatnonzero(documents[:, 0] >= 0)
    rows = served[np.linspace(0, len(served) - 1, min(limit, len(served)), dtype=np.int64)]
    return [
        MinedExample(
            dataset,
            candidates.questions[row],
            candidates.documents[candidates.positives[row]],
            float(found.positive[row]),
            candidates.documents[documents[row, 0]],
            float(scores[row, 0]),
        )
        for row in rows.tolist()
    ]
