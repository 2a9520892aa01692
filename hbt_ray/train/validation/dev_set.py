"""The dev set: questions and passages drawn from a dev store, and the measures of their vectors.

The draw is a function of the store and the configuration, so it is the same in every process and for any world size.
The measures depend neither on the batches nor on the ranks of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from hbt_ray.data.index.language_index import LanguageIndex
from hbt_ray.data.index.manifest import DatasetInfo, Manifest
from hbt_ray.data.index.permutation import Indices, make_key, permute
from hbt_ray.data.store.store import Store
from hbt_ray.errors import ConfigError
from hbt_ray.retrieval.measures import RANK_DISTANCE, Values, measure, relevant_ranks
from hbt_ray.retrieval.search.exact_scores import Floats, score_matrix
from hbt_ray.train.validation.config import ValidationConfig

LanguageCodes = NDArray[np.int16]
"""Indices into a tuple of languages."""
AP, MONO_AP, CROSS_AP, POOL_LOSS = "AP", "mono_AP", "cross_AP", "pool_loss"
_QUESTION_BATCH = 256
"""Questions whose scores with all passages are in memory at once."""
_CHUNK = 64
"""Items of a permutation to compute at once: a data set may have millions, and few are drawn."""


@dataclass(frozen=True, slots=True, eq=False)
class DevSet:
    """Each question is in one language, its passages in all that they have. Ties in rankings go to the greater row."""

    languages: tuple[str, ...]
    questions: list[str]
    question_languages: LanguageCodes
    positive_keys: Indices
    """[questions, n]: keys of the passages that answer. One of them is repeated if a question has fewer than n."""
    passages: list[str]
    passage_languages: LanguageCodes
    passage_keys: Indices
    """[passages]; equal for all translations of a passage."""


def dev_languages(manifest: Manifest, config: ValidationConfig) -> tuple[str, ...]:
    """The languages of the dev set."""
    if missing := sorted(set(config.languages) - set(manifest.languages)):
        raise ConfigError(
            f"validation.languages: {config.store} has no texts in {', '.join(missing)}; it has "
            f"{', '.join(manifest.languages)}",
            code="DEV_LANGUAGES",
        )
    return config.languages or manifest.languages


def fingerprint(manifest: Manifest, config: ValidationConfig) -> str:
    """Hash of the store and hash of the settings, as `STORE-SETTINGS`; measures with equal ones can be compared."""
    languages = dev_languages(manifest, config)
    settings = make_key(languages, config.items, config.seed, config.temperature)
    return f"{make_key(manifest.checksum):016x}-{settings:016x}"


def make_dev_set(store: Store, config: ValidationConfig) -> DevSet:
    """Draw the dev set, spread evenly over data sets. A data set with fewer items than its share gives all of them.

    A passage occurs once in each language, even if several items, ids or data sets have it.
    """
    languages = dev_languages(store.manifest, config)
    questions: list[str] = []
    question_languages, positive_keys = [], []
    passages: dict[tuple[int, int], str] = {}  # (key, language) → text
    datasets = store.manifest.datasets
    counts = _even_shares([info.num_items for info in datasets], config.items)
    for info, count in zip(datasets, counts, strict=True):
        items, codes = draw_items(info, languages, count, make_key(config.seed, "validation", info.name))
        if not len(items):
            continue
        keys = store.positive_keys(info.name, items)
        questions += store.texts_of(info.name, "question", items, codes, languages)
        question_languages.append(codes)
        positive_keys.append(keys)
        for code in range(len(languages)):
            texts = store.texts_of(info.name, "passage", items, np.full(len(items), code, np.int16), languages)
            for key, text in zip(keys[:, 0].tolist(), texts, strict=True):
                if text:  # Items may share a passage, and one may have it in a language that another lacks.
                    passages.setdefault((key, code), text)
    if not questions:
        raise ConfigError(
            f"validation.store={config.store}: no item in {', '.join(languages)}; name other languages",
            code="DEV_LANGUAGES",
        )
    # Data sets differ in their number of positives; padding repeats the last key.
    width = max(keys.shape[1] for keys in positive_keys)
    return DevSet(
        languages,
        questions,
        np.concatenate(question_languages),
        np.concatenate([np.pad(keys, ((0, 0), (0, width - keys.shape[1])), "edge") for keys in positive_keys]),
        list(passages.values()),
        np.array([code for _, code in passages], np.int16),
        np.array([key for key, _ in passages], np.int64),
    )


def draw_items(info: DatasetInfo, languages: Sequence[str], count: int, key: int) -> tuple[Indices, LanguageCodes]:
    """Draw different items, and the language of the question of each; languages take turns.

    Each language draws in the order of a permutation of its own, so a sample is the head of any larger sample of the
    same languages.

    Returns:
        [n] items and [n] language codes; n is less than `count` if there are no more items.
    """
    index = LanguageIndex(info, languages, 0.0)  # Only its pools are used; the exponent of sampling has no effect.
    orders = {code: _permuted_items(index, code, make_key(key, language)) for code, language in enumerate(languages)}
    language_of: dict[int, int] = {}  # item → language code
    turns = cycle(list(orders))
    while len(language_of) < count and orders:
        code = next(turns)
        if code not in orders:
            continue
        item = next((item for item in orders[code] if item not in language_of), None)
        if item is None:
            del orders[code]
        else:
            language_of[item] = code
    return np.array(list(language_of), np.int64), np.array(list(language_of.values()), np.int16)


def _permuted_items(index: LanguageIndex, code: int, key: int) -> Iterator[int]:
    pool = index.pool(code)
    for start in range(0, pool.size, _CHUNK):
        numbers = permute(key, np.arange(start, min(start + _CHUNK, pool.size)), pool.size)
        yield from pool.items(numbers).tolist()


def _even_shares(sizes: Sequence[int], total: int) -> list[int]:
    """Split a total evenly; larger data sets make up for smaller ones."""
    shares = [0] * len(sizes)
    order = sorted(range(len(sizes)), key=lambda number: sizes[number])
    for position, number in enumerate(order):
        shares[number] = min(sizes[number], -(-total // (len(order) - position)))  # Rounded up.
        total -= shares[number]
    return shares


def dev_measures(questions: Floats, passages: Floats, dev_set: DevSet, temperature: float) -> dict[str, float]:
    """Measures of the dev set's vectors; a setting without any pair of languages is left out.

    AP: mean average precision in the pool of all languages. mono_AP, cross_AP: among the passages in the question's
    language, and in each other one. RankDistance: worst minus best rank of a question's answers in the pool. They are
    those of `hbt evaluate`, over the full list: means are taken over the questions of a language or pair of languages,
    then over languages or pairs (2408.10536, section 3). pool_loss: InfoNCE of a question q and a translation p of a
    passage that answers it,

        -log  exp(q·p / t) / (exp(q·p / t) + Σ_j exp(q·p_j / t))       j over the passages that do not answer q

    (2408.10536, equation 1), averaged over all q and p.

    Args:
        questions: [questions, width], unit length.
        passages: [passages, width], unit length.
    """
    pool: dict[str, list[Values]] = {AP: [], RANK_DISTANCE: []}
    language_parts, losses = [], []
    for start in range(0, len(questions), _QUESTION_BATCH):
        batch = slice(start, start + _QUESTION_BATCH)
        scores = score_matrix(questions[batch], passages)  # [batch, passages]
        relevant = np.stack([np.isin(dev_set.passage_keys, keys) for keys in dev_set.positive_keys[batch]])
        for name, values in measure((AP, RANK_DISTANCE), relevant_ranks(scores, relevant)).items():
            pool[name].append(values)
        language_parts.append(_ap_in_languages(scores, relevant, dev_set))  # [batch, languages]
        losses += [_losses(row, hits, temperature) for row, hits in zip(scores, relevant, strict=True)]
    question_languages, by_language = dev_set.question_languages, np.concatenate(language_parts)
    mono, cross = list[float](), list[float]()  # by pair of languages
    for language in np.unique(question_languages):
        for code, values in enumerate(by_language[question_languages == language].T):
            if not np.isnan(values).all():
                (mono if code == language else cross).append(float(np.nanmean(values)))
    means = {
        AP: _macro_average(np.concatenate(pool[AP]), question_languages),
        MONO_AP: float(np.mean(mono)) if mono else None,
        CROSS_AP: float(np.mean(cross)) if cross else None,
        RANK_DISTANCE: _macro_average(np.concatenate(pool[RANK_DISTANCE]), question_languages),
        POOL_LOSS: float(np.concatenate(losses).mean()),
    }
    return {name: value for name, value in means.items() if value is not None}


def _ap_in_languages(scores: Floats, relevant: NDArray[np.bool_], dev_set: DevSet) -> Values:
    """AP among the passages of each language: [questions, languages], NaN if none of them is relevant."""
    precision = np.full((len(scores), len(dev_set.languages)), np.nan)
    for code in range(len(dev_set.languages)):
        columns = dev_set.passage_languages == code
        rows = relevant[:, columns].any(axis=1)
        if rows.any():
            cells = np.ix_(rows, columns)
            precision[rows, code] = measure([AP], relevant_ranks(scores[cells], relevant[cells]))[AP]
    return precision


def _macro_average(values: Values, groups: LanguageCodes) -> float:
    return float(np.mean([values[groups == group].mean() for group in np.unique(groups)]))


def _losses(scores: Floats, relevant: NDArray[np.bool_], temperature: float) -> NDArray[np.float64]:
    """InfoNCE of one question with each of its relevant passages: [passages] scores → [relevant]."""
    logits = scores.astype(np.float64) / temperature
    negatives = np.logaddexp.reduce(logits[~relevant], initial=-np.inf)  # -inf if every passage is relevant.
    losses: NDArray[np.float64] = np.logaddexp(logits[relevant], negatives) - logits[relevant]
    return losses
