"""The sample: texts of a store to learn from, by side and language, spread evenly over all that it has of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from hbt_ray.data.index.language_index import LanguageIndex
from hbt_ray.data.store.store import Store
from hbt_ray.errors import ConfigError
from hbt_ray.retrieval.transforms.methods import PASSAGE, QUESTION, SIDES, Method
from hbt_ray.retrieval.transforms.transform import Transform, Vectors


@dataclass(frozen=True, slots=True)
class TextSample:
    """Texts of one side and language."""

    side: str
    language: str
    texts: tuple[str, ...]
    anchors: tuple[str, ...] = ()
    """Text by text the same in the anchor's language, where the method has one."""


def sample_texts(store: Store, method: Method) -> list[TextSample]:
    """What the method learns from, always the same. Where languages have the same items, theirs are parallel texts.

    Languages with fewer texts than the method needs are left out.

    Raises:
        ConfigError: the store lacks the anchor's language or one that is asked for, or no language has enough texts.
    """
    anchor, there = method.anchor, store.manifest.languages
    _require("source", [] if anchor is None else [anchor], there)
    _require("languages", method.languages, there)
    coverages = [LanguageIndex(info, there, 0.0) for info in store.manifest.chosen(method.datasets)]
    drawn = [
        _of_language(store, coverages, method, side, language)
        for side in method.sides
        for language in method.languages or there
        if language != anchor
    ]
    enough = [sample for sample in drawn if len(sample.texts) >= method.least]
    if not enough:
        between = "" if anchor is None else f" that {anchor} has as well"
        raise ConfigError(f"no language of the store has {method.least} items{between}, so nothing can be learned")
    return enough


def _require(what: str, languages: Sequence[str], there: Sequence[str]) -> None:
    if unknown := [language for language in languages if language not in there]:
        raise ConfigError(
            f"{what}={','.join(unknown)}: no item of the store has it; its languages are {', '.join(there)}"
        )


def _of_language(store: Store, coverages: list[LanguageIndex], method: Method, side: str, language: str) -> TextSample:
    languages = store.manifest.languages
    wanted = [language] if method.anchor is None else [language, method.anchor]
    codes = [languages.index(name) for name in wanted]
    pools = [coverage.pool(*codes) for coverage in coverages]
    ends = np.cumsum([0, *(pool.size for pool in pools)])
    count = min(method.texts, int(ends[-1]))
    numbers = np.arange(count) * int(ends[-1]) // max(count, 1)
    texts: list[list[str]] = [[] for _ in codes]
    for coverage, pool, start, end in zip(coverages, pools, ends[:-1], ends[1:], strict=True):
        items = pool.items(numbers[(numbers >= start) & (numbers < end)] - start)
        for found, code in zip(texts, codes, strict=True):
            if len(items):
                found += store.texts_of(coverage.name, side, items, np.full(len(items), code, np.int16), languages)
    return TextSample(side, language, *map(tuple, texts))


_TOLERANCE = 1e-3


class EncodedSides(Protocol):
    """What an encoder makes of questions and passages."""

    @property
    def questions(self) -> Vectors:
        """[questions, width]"""

    @property
    def passages(self) -> Vectors:
        """[passages, width]"""

    @property
    def fingerprint(self) -> str:
        """Of weights, tokenizer, prompts and length."""


Encode = Callable[[Sequence[str], Sequence[str]], EncodedSides]
"""From questions and passages."""


class FitVectors(NamedTuple):
    """Vectors of one side and language to learn from."""

    vectors: npt.ArrayLike
    """[n, width]"""
    anchors: npt.ArrayLike | None = None
    """[n, width], row by row of the same texts in the method's anchor language, where it has one."""


def fit(
    method: Method, examples: Mapping[str, Mapping[str, FitVectors]], *, encoder: str = "", name: str = ""
) -> Transform:
    """A fix from vectors by side and language.

    Args:
        encoder: fingerprint of what made the vectors.
        name: what to call the fix; by default like its method.

    Raises:
        ConfigError: the method asks for more than the vectors have.
    """
    learned: dict[str, dict[str, Vectors]] = {}
    texts: dict[str, dict[str, int]] = {}
    unit = True
    for side, languages in examples.items():
        for language, example in languages.items():
            vectors = np.asarray(example.vectors, np.float64)
            anchors = None if example.anchors is None else np.asarray(example.anchors, np.float64)
            unit = unit and bool((np.abs(np.linalg.norm(vectors, axis=1) - 1) < _TOLERANCE).all())
            found = method.learned(vectors, anchors)
            learned.setdefault(side, {})[language] = np.ascontiguousarray(found, np.float32)
            texts.setdefault(side, {})[language] = len(vectors)
    return Transform(name or method.kind, method, learned, unit, encoder, texts)


def fit_to_store(store: Store, method: Method, encode: Encode, *, name: str = "") -> Transform:
    """A fix of the encoder, from texts of the store.

    Raises:
        ConfigError: see `sample_texts` and `fit`.
    """
    samples = sample_texts(store, method)
    texts: dict[str, list[str]] = {side: [] for side in SIDES}
    places = []
    for sample in samples:
        of_side = texts[sample.side]
        places.append(len(of_side))
        of_side += (*sample.texts, *sample.anchors)
    encoding = encode(texts[QUESTION], texts[PASSAGE])
    examples: dict[str, dict[str, FitVectors]] = {}
    for sample, start in zip(samples, places, strict=True):
        vectors = encoding.questions if sample.side == QUESTION else encoding.passages
        middle = start + len(sample.texts)
        anchors = vectors[middle : middle + len(sample.anchors)] if sample.anchors else None
        examples.setdefault(sample.side, {})[sample.language] = FitVectors(vectors[start:middle], anchors)
    return fit(method, examples, encoder=encoding.fingerprint, name=name)
