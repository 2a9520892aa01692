"""Encode: texts to vectors, with Ray Data and a pool of actors that hold one model each.

Every text is encoded once, however often it occurs, so equal texts get equal vectors to the last bit; texts of about as
many tokens share a batch, so that little is spent on padding. With a cache, what was encoded before is not again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from hbt_ray.errors import ModelError
from hbt_ray.ray_errors import WORKER_LIMITS, Guarded, guarded_batches
from hbt_ray.retrieval.encoder import Encoder, EncoderConfig
from hbt_ray.retrieval.vector_cache import Texts, TextSet, VectorCache, Vectors

_BATCHES = 16
"""Given to an actor at once, for it to sort: characters have sorted the texts by then, tokens do so within these."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedTexts:
    """Vectors of all texts, unit length unless the model says that it wants the dot product."""

    questions: Vectors
    """[questions, width]"""
    passages: Vectors
    fingerprint: str
    """Of weights, tokenizer, prompts and length."""
    peak_memory_bytes: int
    """Largest resident set of any one encoder process; 0 where nothing had to be encoded."""


def encode(
    config: EncoderConfig,
    questions: Texts,
    passages: Texts,
    advance: Callable[[int], None] = lambda _: None,
    *,
    cache: Path | None = None,
) -> EncodedTexts:
    """Vectors of questions and passages, in order; needs a Ray session where something is to be encoded.

    Args:
        advance: is told of every batch how many of the given texts it has finished.
        cache: a folder where vectors are kept, and memory-mapped from; without one they are held in memory.

    Raises:
        ModelError: the model cannot be loaded, or gives vectors that are not finite, or zero where only their
            direction counts.
        ResourceError: the encoder's processes ran out of memory or died.
    """
    sets = [TextSet.of(0, questions), TextSet.of(1, passages)]
    kept = VectorCache(cache, config.identity()) if cache else None
    found = {texts.side: vectors for texts in sets if kept and (vectors := kept.find(texts)) is not None}
    missing = [texts for texts in sets if texts.side not in found and len(texts)]
    for texts in sets:
        if texts.side in found:
            advance(len(texts.places))
    fingerprint, peak = (kept.fingerprint or "") if kept else "", 0
    if missing or not found:
        made, fingerprint, peak = _encode(config, missing, advance, kept)
        found |= made
    width = next(iter(found.values())).shape[1]
    empty = np.empty((0, width), np.float32)
    asked, answers = (texts.given(found.get(texts.side, empty)) for texts in sets)
    return EncodedTexts(asked, answers, fingerprint, peak)


def _encode(
    config: EncoderConfig, sets: list[TextSet], advance: Callable[[int], None], kept: VectorCache | None
) -> tuple[dict[int, Vectors], str, int]:
    """Vectors by side, the model's fingerprint, and the memory that it took."""
    occurrences = {texts.side: np.bincount(texts.places, minlength=len(texts)) for texts in sets}
    vectors: dict[int, Vectors] = {}
    fingerprint, peak = "", 0
    with ExitStack() as writing:
        for batch in _batches(config, sets):
            found = np.stack(batch["vector"].to_numpy())
            sides, numbers = batch["side"].to_numpy(), batch["number"].to_numpy()
            if not vectors:
                for texts in sets:
                    vectors[texts.side] = (
                        writing.enter_context(kept.writing(texts, found.shape[1]))
                        if kept
                        else np.empty((len(texts), found.shape[1]), np.float32)
                    )
            _check(config, found)
            for texts in sets:
                own = sides == texts.side
                vectors[texts.side][numbers[own]] = found[own]
                advance(int(occurrences[texts.side][numbers[own]].sum()))
            fingerprint, peak = batch["fingerprint"][0].as_py(), max(peak, batch["memory"][-1].as_py())
        if not vectors:
            raise ModelError("there is no text to encode; give questions or passages")
    if kept:
        kept.name(fingerprint)
        vectors = {texts.side: there for texts in sets if (there := kept.find(texts)) is not None}
    return vectors, fingerprint, peak


def _batches(config: EncoderConfig, sets: list[TextSet]) -> Iterator[pa.Table]:
    """Tables of side, number, vector, fingerprint and memory, in any order."""
    blocks = _blocks(config, sets)
    if not blocks:
        return
    dataset = ray.data.from_arrow(blocks).map_batches(
        Guarded,
        fn_constructor_args=(Encoder, config),
        batch_size=None,  # A block as it is.
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=config.workers),
        num_gpus=1 if config.gpu else None,
        **WORKER_LIMITS,
    )
    yield from guarded_batches(dataset, f"{config.model!r} could not encode")


def _blocks(config: EncoderConfig, sets: list[TextSet]) -> list[pa.Table]:
    rows = config.batch_size * _BATCHES
    return [ordered.slice(at, rows) for ordered in map(_ordered, sets) for at in range(0, len(ordered), rows)]


def _ordered(texts: TextSet) -> pa.Table:
    """Longest first: the largest batch comes first, and memory that suffices for it suffices for all."""
    order = np.argsort(-pc.utf8_length(texts.texts).to_numpy(), kind="stable")
    side = np.full(len(order), texts.side, np.int8)
    return pa.table({"number": order, "side": side, "text": texts.texts.take(pa.array(order))})


def _check(config: EncoderConfig, vectors: Vectors) -> None:
    if not np.isfinite(vectors).all():
        raise ModelError(f"{config.model!r} gives vectors that are not finite; its weights are damaged or overflow")
    if zero := int((~vectors.any(axis=1)).sum()):
        raise ModelError(
            f"{config.model!r} gives a vector of zeros for {zero} of {len(vectors)} texts, which is equally far from "
            "everything; its weights are damaged, or its precision is too low"
        )
