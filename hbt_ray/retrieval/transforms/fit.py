"""Fit a transform to texts of a store, or to vectors that exist already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from hbt_ray.data.index.language_index import LanguageIndex
from hbt_ray.data.store.store import Store
from hbt_ray.errors import ConfigError
from hbt_ray.retrieval.transforms.methods import PASSAGE, QUESTION, SIDES, Method
from hbt_ray.retrieval.transforms.transform import Transform, Vectors

if TYPE_CHECKING:
    from hbt_ray.retrieval.encoder import EncodedTexts

_UNIT_TOLERANCE = 1e-3


class FitVectors(NamedTuple):
    """Vectors of one side and language to fit on."""

    vectors: npt.ArrayLike
    """[n, width]"""
    anchors: npt.ArrayLike | None = None
    """[n, width] vectors of the translations into the method's anchor language, if it has one."""


@dataclass(frozen=True, slots=True)
class TextSample:
    """Texts of one side and language to fit on."""

    side: str
    language: str
    texts: tuple[str, ...]
    anchors: tuple[str, ...] = ()
    """Translation of each text into the method's anchor language, if it has one."""


def fit(
    method: Method, examples: Mapping[str, Mapping[str, FitVectors]], *, encoder: str = "", name: str = ""
) -> Transform:
    """Fit a transform to vectors.

    Args:
        examples: side → language → vectors.
        encoder: fingerprint of the encoder of the vectors.
        name: name of the transform. Default: name of the method.

    Raises:
        ConfigError: the vectors do not suffice for the method.
    """
    parameters: dict[str, dict[str, Vectors]] = {}
    texts: dict[str, dict[str, int]] = {}
    unit = True
    for side, languages in examples.items():
        for language, example in languages.items():
            vectors = np.asarray(example.vectors, np.float64)
            anchors = None if example.anchors is None else np.asarray(example.anchors, np.float64)
            # The encoder normalises its vectors if all of them have unit length.
            unit = unit and bool((np.abs(np.linalg.norm(vectors, axis=1) - 1) < _UNIT_TOLERANCE).all())
            matrix = np.ascontiguousarray(method.fit(vectors, anchors), np.float32)
            parameters.setdefault(side, {})[language] = matrix
            texts.setdefault(side, {})[language] = len(vectors)
    return Transform(name or method.kind, method, parameters, unit, encoder, texts)


def fit_to_store(
    store: Store, method: Method, encode: Callable[[Sequence[str], Sequence[str]], EncodedTexts], *, name: str = ""
) -> Transform:
    """Fit a transform of an encoder to texts of the store.

    Args:
        encode: returns the vectors of questions and passages, given in this order.

    Raises:
        ConfigError: see `sample_texts` and `fit`.
    """
    samples = sample_texts(store, method)
    texts = {
        side: [text for sample in samples if sample.side == side for text in (*sample.texts, *sample.anchors)]
        for side in SIDES
    }
    encoded = encode(texts[QUESTION], texts[PASSAGE])
    examples: dict[str, dict[str, FitVectors]] = {}
    for side, vectors in ((QUESTION, encoded.questions), (PASSAGE, encoded.passages)):
        start = 0  # The vectors lie in the order of `texts`: for each sample, its texts, then its anchors.
        for sample in (sample for sample in samples if sample.side == side):
            middle = start + len(sample.texts)
            end = middle + len(sample.anchors)
            anchors = vectors[middle:end] if sample.anchors else None
            examples.setdefault(side, {})[sample.language] = FitVectors(vectors[start:middle], anchors)
            start = end
    return fit(method, examples, encoder=encoded.fingerprint, name=name)


def sample_texts(store: Store, method: Method) -> list[TextSample]:
    """Texts to fit the method on, spread evenly over the store; equal stores give equal samples.

    If languages have the same items, their samples are parallel texts. Languages with fewer texts than the method needs
    are left out.

    Raises:
        ConfigError: the store lacks the anchor language or one that is named, or no language has enough texts.
    """
    anchor, present = method.anchor, store.manifest.languages
    for key, named in (("source", (anchor,) if anchor else ()), ("languages", method.languages)):
        if unknown := [language for language in named if language not in present]:
            raise ConfigError(
                f"{key}={','.join(unknown)}: no item of the store has it; its languages are {', '.join(present)}",
                code="UNKNOWN_LANGUAGE",
            )
    indexes = [LanguageIndex(info, present, 0.0) for info in store.manifest.chosen(method.datasets)]
    samples = [
        _sample_language(store, indexes, method, side, language)
        for side in method.sides
        for language in method.languages or present
        if language != anchor
    ]
    sufficient = [sample for sample in samples if len(sample.texts) >= method.min_texts]
    if not sufficient:
        parallel = "" if anchor is None else f" that {anchor} has as well"
        raise ConfigError(
            f"no language of the store has {method.min_texts} items{parallel}, so nothing can be fitted",
            code="TOO_FEW_TEXTS",
        )
    return sufficient


def _sample_language(
    store: Store, indexes: list[LanguageIndex], method: Method, side: str, language: str
) -> TextSample:
    languages = store.manifest.languages
    # With an anchor, the pools hold only items that have both languages.
    codes = [languages.index(name) for name in (language, method.anchor) if name is not None]
    # The pools of all datasets as one sequence of items; dataset i has the numbers from ends[i] to ends[i + 1].
    pools = [index.pool(*codes) for index in indexes]
    ends = np.cumsum([0, *(pool.size for pool in pools)])
    count = min(method.texts, int(ends[-1]))
    numbers = np.arange(count) * int(ends[-1]) // max(count, 1)
    texts: list[list[str]] = [[] for _ in codes]
    for index, pool, start, end in zip(indexes, pools, ends[:-1], ends[1:], strict=True):
        items = pool.items(numbers[(numbers >= start) & (numbers < end)] - start)
        for column, code in zip(texts, codes, strict=True):
            if len(items):
                column += store.texts_of(index.name, side, items, np.full(len(items), code, np.int16), languages)
    return TextSample(side, language, *map(tuple, texts))
