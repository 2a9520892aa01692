"""Fitting: from a store's texts, or from vectors that are there already, to a fix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from hbt_ray.data.store.store import Store
from hbt_ray.retrieval.transforms.methods import PASSAGE, QUESTION, SIDES, Method
from hbt_ray.retrieval.transforms.sample import draw
from hbt_ray.retrieval.transforms.transform import Transform, Vectors

_TOLERANCE = 1e-3


class TextEncoder(Protocol):
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


Encode = Callable[[Sequence[str], Sequence[str]], TextEncoder]
"""From questions and passages."""


class Learning(NamedTuple):
    """Vectors of one side and language to learn from."""

    vectors: npt.ArrayLike
    """[n, width]"""
    anchors: npt.ArrayLike | None = None
    """[n, width], row by row of the same texts in the method's anchor language, where it has one."""


def fit(
    method: Method, examples: Mapping[str, Mapping[str, Learning]], *, encoder: str = "", name: str = ""
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
        ConfigError: see `draw` and `fit`.
    """
    samples = draw(store, method)
    texts: dict[str, list[str]] = {side: [] for side in SIDES}
    places = []
    for sample in samples:
        of_side = texts[sample.side]
        places.append(len(of_side))
        of_side += (*sample.texts, *sample.anchors)
    encoding = encode(texts[QUESTION], texts[PASSAGE])
    examples: dict[str, dict[str, Learning]] = {}
    for sample, start in zip(samples, places, strict=True):
        vectors = encoding.questions if sample.side == QUESTION else encoding.passages
        middle = start + len(sample.texts)
        anchors = vectors[middle : middle + len(sample.anchors)] if sample.anchors else None
        examples.setdefault(sample.side, {})[sample.language] = Learning(vectors[start:middle], anchors)
    return fit(method, examples, encoder=encoding.fingerprint, name=name)
