"""The measures of a pool's vectors: average precision in the three settings, and the loss over the pool.

AP is over the full list, as `hbt evaluate` has it: scores are added in float64 and rounded to float32, the greater
row comes first among equal ones, and means are taken over the questions within a language or pair, then over languages
or pairs (2408.10536, section 3). The loss of question q and a version p of a passage that answers it is that of
training,

    -log  exp(q·p / t) / (exp(q·p / t) + Σ_j exp(q·p_j / t))       j over the pool's passages that do not answer q

(2408.10536 eq. 1), its mean over all q and p. Neither knows of batches or ranks.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from hbt_ray.train.validation.dev_set import DevSet

Floats = NDArray[np.float32]
AP, MONO_AP, CROSS_AP, POOL_LOSS, RANK_DISTANCE = "AP", "mono_AP", "cross_AP", "pool_loss", "RankDistance"
"""AP in the pool of all languages, within the question's language, in each other one; the loss over the pool; how far
apart a question's answers stand in the pool, the worst rank minus the best."""


def measures(questions: Floats, passages: Floats, pool: DevSet, temperature: float) -> dict[str, float]:
    """Name → value; a setting that the pool has no pair for is left out.

    Args:
        questions: [questions, width], as the pool's, unit length.
        passages: [passages, width], as the pool's.
    """
    scores = _scores(questions, passages)
    pairs: dict[tuple[int, int], list[float]] = defaultdict(list)
    pooled: dict[int, list[float]] = defaultdict(list)
    distances: dict[int, list[float]] = defaultdict(list)
    losses = []
    for row, right_keys, asked in zip(scores, pool.right_keys, pool.question_languages.tolist(), strict=True):
        relevant = np.isin(pool.passage_keys, right_keys)
        losses.append(_losses(row, relevant, temperature))
        order = np.argsort(row, kind="stable")[::-1]
        hits, languages = relevant[order], pool.passage_languages[order]
        pooled[asked].append(_average_precision(hits))
        distances[asked].append(float(np.ptp(np.flatnonzero(hits))))
        for found in np.unique(languages[hits]).tolist():
            pairs[asked, found].append(_average_precision(hits[languages == found]))
    settings = {
        AP: list(pooled.values()),
        MONO_AP: [values for (asked, found), values in pairs.items() if asked == found],
        CROSS_AP: [values for (asked, found), values in pairs.items() if asked != found],
        RANK_DISTANCE: list(distances.values()),
    }
    found_means = {name: float(np.mean([np.mean(values) for values in of])) for name, of in settings.items() if of}
    return {**found_means, POOL_LOSS: float(np.concatenate(losses).mean())}


def _scores(questions: Floats, passages: Floats) -> Floats:
    """[questions, passages]; rounded, so that vectors that are equal tie whatever order BLAS adds them in."""
    return (questions.astype(np.float64) @ passages.astype(np.float64).T).astype(np.float32)


def _average_precision(hits: NDArray[np.bool_]) -> float:
    """Of a ranking, best first; at least one hit."""
    ranks = np.flatnonzero(hits) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).mean())


def _losses(scores: Floats, relevant: NDArray[np.bool_], temperature: float) -> NDArray[np.float64]:
    """One a relevant passage."""
    logits = scores.astype(np.float64) / temperature
    others = np.logaddexp.reduce(logits[~relevant], initial=-np.inf)
    losses: NDArray[np.float64] = np.logaddexp(logits[relevant], others) - logits[relevant]
    return losses
