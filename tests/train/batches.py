"""Local batches of made-up tokens: any slice of the same global batch, with all that an objective may ask for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from hbt_ray.data.stream.rank_batch import RankBatch
from hbt_ray.data.stream.tokenise import Tokens, TokenSections

NUM_ROWS, PER_ROW, NUM_TOKENS = 11, 2, 50


def sizes_of(world_size: int, num_rows: int = NUM_ROWS) -> tuple[int, ...]:
    """Rows of every rank; they differ where the world size does not divide the batch."""
    ends = [num_rows * rank // world_size for rank in range(world_size + 1)]
    return tuple(last - first for first, last in pairwise(ends))


def batch(
    step: int, rank: int = 0, world_size: int = 1, *, mined: bool = False, views: bool = False, num_rows: int = NUM_ROWS
) -> RankBatch:
    """Passages are shared between rows, and questions have up to three right ones; from step 1 on the last third of the
    rows has no mined negative."""
    rng = np.random.default_rng(step)
    part = np.arange(num_rows * rank // world_size, num_rows * (rank + 1) // world_size)

    def texts(rows: int, share: float = 1.0) -> Tokens:
        lengths = rng.integers(2, 9, rows).astype(np.int32) * (rng.random(rows) < share)
        return Tokens.from_lengths(
            rng.integers(1, NUM_TOKENS, lengths.sum()).astype(np.int32), lengths.astype(np.int32)
        )

    questions, passages = texts(num_rows), texts(num_rows)
    positive_keys, languages = rng.integers(0, 8, (num_rows, 3)), rng.integers(0, 3, (2, num_rows))
    negatives, negative_keys = texts(num_rows * PER_ROW, 0.7), rng.integers(0, 12, num_rows * PER_ROW)
    if step:
        last = 2 * num_rows // 3 * PER_ROW
        negatives = negatives[:last].scattered(np.arange(last), len(negatives))
    scores = rng.normal(size=(num_rows, 1 + PER_ROW)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.2] = np.nan
    others = {
        name: texts(num_rows, share)
        for name, share in (
            ("question_translations", 0.8),
            ("passage_translations", 0.7),
            ("teacher_questions", 0.9),
            ("teacher_passages", 0.6),
        )
    }
    of_rows = (part[:, None] * PER_ROW + np.arange(PER_ROW)).ravel()
    sections = {
        "questions": questions[part],
        "passages": passages[part],
        "negatives": negatives[of_rows if mined else slice(0)],
        **({name: tokens[part] for name, tokens in others.items()} if views else {}),
    }
    return RankBatch(
        step,
        "mono",
        "set",
        "de",
        part,
        TokenSections.concatenate(sections),
        positive_keys[part],
        *languages[:, part],
        negative_keys[of_rows] if mined else np.empty(0, np.int64),
        scores[part] if mined and views else np.empty((0, 0), np.float32),
    )
