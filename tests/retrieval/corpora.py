"""Made vectors and corpora, and what an exact ranking of them is by definition."""

from __future__ import annotations

import numpy as np

from hbt_ray.retrieval.search.exact_scores import pair_scores

DIM = 12


def all_scores(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    query, document = np.indices((len(queries), len(documents))).reshape(2, -1)
    return pair_scores(queries, documents, query, document).reshape(len(queries), len(documents))


def vectors(kind: str, num: int, seed: int) -> np.ndarray:
    """`ties`: few values, so that most scores occur many times; `same`: all alike; `float`: no ties, close scores.

    `cancel`: two large terms nearly cancel, so that the order by float32 scores is far from the true one.
    """
    rng = np.random.default_rng(seed)
    if kind == "cancel":
        found = rng.standard_normal((num, DIM)) * 0.1
        found[:, 0] = 1000 * rng.uniform(1, 2, num)
        found[:, 1] = found[:, 0] if seed == 1 else -found[:, 0]
        return found.astype(np.float32)
    if kind == "ties":
        return rng.integers(-1, 2, (num, DIM)).astype(np.float32) / 2
    if kind == "same":
        return np.full((num, DIM), 0.3, dtype=np.float32)
    found = rng.standard_normal((num, DIM)) * 0.01 + 1
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def flat_ranking(ids: list[str], queries: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All documents of every query by (score, id), both descending: rows and scores, [n, m]."""
    scores = all_scores(queries, documents)
    rows = [sorted(range(len(ids)), key=lambda d, own=own: (own[d], ids[d]), reverse=True) for own in scores]
    return np.array(rows), np.take_along_axis(scores, np.array(rows), axis=1)


def corpus(kind: str, num: int, num_languages: int) -> tuple[list[str], list[str], np.ndarray]:
    """Ids whose order is neither that of the rows nor that of numbers; languages of unequal size, mixed."""
    rng = np.random.default_rng(num_languages)
    tags = np.array(["ar", "de", "en", "th", "zh"])[:num_languages]
    languages = [*tags, *rng.choice(tags, num - num_languages, p=np.arange(1, num_languages + 1) / tri(num_languages))]
    return [f"{rng.integers(10)}é{i}" for i in range(num)], [str(tag) for tag in languages], vectors(kind, num, 1)


def tri(num: int) -> int:
    return num * (num + 1) // 2


def clustered(num: int, seed: int, dim: int = 32) -> np.ndarray:
    """Unit vectors around common centres, as texts on common topics have."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((50, dim))
    found = centres[rng.integers(0, 50, num)] + 0.5 * rng.standard_normal((num, dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
