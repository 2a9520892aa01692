"""The canonical score of a query and a document, and the one order in which every ranking lists its documents.

BLAS adds in an order that depends on the shapes of the matrices, the CPU and the number of threads, so its scores
differ in the last bits and ties come and go. Here a score is defined as the products in float64 (exact for float32
vectors), added in one fixed binary tree and rounded to float32. It is the same on every machine, in every batch and
shard, and equal vectors always tie.

`score_matrix` computes these scores at the speed of a float64 matrix product. Both orders of addition are within `g` of
the true sum, g = 2 (dim + 8) 2^-53 |q| |d|, and rounding is monotone: if v - g and v + g round to the same float32,
that is the canonical score. The other pairs (about one in a million) are scored by the definition.

Ties are broken as in trec_eval: the greater document id comes first. Documents carry their *order number* (the rank of
their id among all ids of the corpus). Score and order number are packed into one integer, the *ranking key*; the
document with the greater key comes first, so ranking means sorting integers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from hbt_ray.errors import TaskError
from hbt_ray.retrieval.vectors import VectorFile

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

NO_KEY = np.int64(np.iinfo(np.int64).min)
"""Padding, smaller than the key of any document."""
MAX_NORM = 1e18
"""Longest vector; products of longer ones would leave the range of float32."""
_ELEMENTS = 1 << 19  # float64 numbers at a time: 4 MiB, the size of a core's cache


def pair_scores(queries: Floats, documents: Floats | VectorFile, query: Integers, document: Integers) -> Floats:
    """The canonical scores of pairs, given as rows of [n, dim] queries and [m, dim] documents: [pairs] → [pairs]."""
    dim = queries.shape[1]
    scores = np.empty(len(query), dtype=np.float32)
    step = max(1, _ELEMENTS // dim)
    for start in range(0, len(query), step):
        pairs = slice(start, start + step)
        products = queries[query[pairs]].astype(np.float64)
        products *= documents[document[pairs]]
        width = dim
        # Fold the right half onto the left one. Elementwise additions have one result on every CPU.
        while width > 1:
            half = (width + 1) // 2
            products[:, : width - half] += products[:, half:width]
            width = half
        scores[pairs] = products[:, 0]
    return scores


def score_matrix(queries: Floats, documents: Floats) -> Floats:
    """The canonical score of every query with every document: [n, dim] and [m, dim] → [n, m]."""
    approximate = queries.astype(np.float64) @ documents.astype(np.float64).T
    reach = 2 * (queries.shape[1] + 8) * 2.0**-53 * norms(queries) * norms(documents).max(initial=0.0)
    # same_kind makes NumPy round to float32 block by block, without a second float64 matrix.
    low = np.empty(approximate.shape, dtype=np.float32)
    high = np.empty(approximate.shape, dtype=np.float32)
    np.subtract(approximate, reach[:, None], out=low, dtype=np.float64, casting="same_kind")
    np.add(approximate, reach[:, None], out=high, dtype=np.float64, casting="same_kind")
    query, document = np.nonzero(low != high)  # the pairs for which the bounds do not settle the float32
    low[query, document] = pair_scores(queries, documents, query, document)
    return low


def norms(vectors: Floats) -> npt.NDArray[np.float64]:
    """Euclidean lengths, [n, dim] → [n], in float64: the squares of finite float32 numbers cannot overflow."""
    squared: npt.NDArray[np.float64] = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    return np.sqrt(squared)


def ranking_keys(scores: Floats, orders: Integers) -> Integers:
    """Pack scores and order numbers (0 to 2^32 - 1, same or broadcastable shape) into keys; greater comes first."""
    # Adding 0 turns -0.0 into 0.0. Read as integers, positive floats sort by size and negative ones in reverse, so
    # the lower 31 bits of negative ones are flipped.
    bits = (scores + np.float32(0)).view(np.int32)
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    keys = bits.astype(np.int64)
    keys <<= 32
    return keys | orders


def key_scores(keys: Integers) -> Floats:
    """The scores in the keys; undoes `ranking_keys`, whose flip of bits is its own inverse."""
    bits = (keys >> 32).astype(np.int32)
    return (bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))).view(np.float32)


def key_orders(keys: Integers) -> Integers:
    """The order numbers in the keys."""
    return keys & np.int64(0xFFFFFFFF)


def checked_vectors(vectors: npt.ArrayLike, name: Callable[[int], str], dim: int | None = None) -> Floats:
    """The vectors as contiguous float32.

    Args:
        name: returns the name of a row, for errors.
        dim: expected width. Default: accept any.

    Raises:
        TaskError: not [n, dim], or a vector that is not finite or longer than `MAX_NORM`.
    """
    with np.errstate(over="ignore"):  # Numbers beyond float32 become infinite and are refused below.
        array = np.ascontiguousarray(vectors, dtype=np.float32)
    if array.ndim != 2 or array.shape[1] == 0 or array.shape[1] != (dim or array.shape[1]):
        raise TaskError(
            f"vectors of {name(0)} and following have shape {list(array.shape)}, expected [n, {dim or 'dim'}]; "
            "encode queries and documents with one model and one dimension",
            code="INVALID_VECTORS",
        )
    bad = np.flatnonzero(~(norms(array) <= MAX_NORM))  # not `>`, which is false for NaN
    if len(bad):
        raise TaskError(
            f"{len(bad)} of {len(array)} vectors hold NaN, infinity or numbers beyond {MAX_NORM:g}, the first is that "
            f"of {name(int(bad[0]))}; its scores would mean nothing, so check the model's weights and its precision",
            code="INVALID_VECTORS",
        )
    return array
