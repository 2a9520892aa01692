"""The methods: what each learns of a language, and how it moves that language's vectors.

Each is its own configuration. What is learned of a language and a side is a matrix [k, width]. Questions and passages
are learned apart, as their prompts move them to different places.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hbt_ray.config import Config, Language, Languages
from hbt_ray.errors import ConfigError

Doubles = npt.NDArray[np.float64]

QUESTION, PASSAGE = "question", "passage"
SIDES = (QUESTION, PASSAGE)


class Method(Config):
    """What all have in common."""

    kind: str
    """Its name."""
    texts: int = Field(1_000, gt=1)
    """To learn from, of each language and side; all where the store has fewer."""
    languages: Languages = ()
    """To learn, these alone; empty means all of the store."""
    datasets: tuple[str, ...] = ()
    """To learn from, these of the store alone; empty means all. Where languages have texts of other kinds, what is
    learned of a language is what is learned of its texts: a parallel set leaves that out."""

    @property
    def sides(self) -> tuple[str, ...]:
        """Whose vectors it moves."""
        return SIDES

    @property
    def anchor(self) -> str | None:
        """The language that the others are compared with, text by parallel text; it stays where it is."""
        return None

    @property
    def least(self) -> int:
        """Texts below which nothing can be learned of a language."""
        return 2

    @abstractmethod
    def learned(self, vectors: Doubles, anchors: Doubles | None) -> Doubles:
        """[k, width] from a language's vectors [n, width] and, row by row, those of the anchor's parallel texts."""

    @abstractmethod
    def moved(self, vectors: Doubles, learned: Doubles) -> Doubles:
        """The vectors of that language [m, width] without what was learned."""


class _EitherSide(Method):
    documents_only: bool = False
    """Questions stay where they are, so that an index can be mended and its users need not know."""

    @property
    def sides(self) -> tuple[str, ...]:
        return (PASSAGE,) if self.documents_only else SIDES


class Centering(_EitherSide):
    """x - m, with m the mean of the language's vectors (2004.05160)."""

    kind: Literal["centering"] = "centering"

    def learned(self, vectors: Doubles, anchors: Doubles | None) -> Doubles:
        mean: Doubles = vectors.mean(axis=0, keepdims=True)
        return mean

    def moved(self, vectors: Doubles, learned: Doubles) -> Doubles:
        return vectors - learned


class Lir(_EitherSide):
    """x - V Vᵀ x, with V the first right-singular vectors of the language's vectors, which are not centred first
    (2109.04727; one direction is best there)."""

    kind: Literal["lir"] = "lir"
    directions: int = Field(1, gt=0)
    """How many are removed."""

    @property
    def least(self) -> int:
        return self.directions + 1

    def learned(self, vectors: Doubles, anchors: Doubles | None) -> Doubles:
        width = vectors.shape[1]
        if self.directions >= width:
            raise ConfigError(f"directions={self.directions}: vectors of {width} numbers would have nothing left")
        directions: Doubles = np.linalg.svd(vectors, full_matrices=False)[2][: self.directions]
        return directions

    def moved(self, vectors: Doubles, learned: Doubles) -> Doubles:
        # Not by BLAS, whose sums depend on a row's place: equal vectors stay equal, and tie.
        shadows = np.einsum("nw,kw->nk", vectors, learned)
        rest: Doubles = vectors - np.einsum("nk,kw->nw", shadows, learned)
        return rest


class Shift(Method):
    """x - alpha · v, with v the mean of f(text) - f(its translation into the source language), over parallel passages
    (2606.18801, equation 1 and algorithm 1). Questions stay as they are, and so do passages in the source language."""

    kind: Literal["shift"] = "shift"
    alpha: float = Field(1.0, gt=0, le=1)
    """1 takes the whole offset; 0.6 to 1 are best there, by encoder."""
    source: Language = "en"

    @property
    def sides(self) -> tuple[str, ...]:
        return (PASSAGE,)

    @property
    def anchor(self) -> str:
        return self.source

    def learned(self, vectors: Doubles, anchors: Doubles | None) -> Doubles:
        if anchors is None or anchors.shape != vectors.shape:
            raise ConfigError("shift compares a language with its translations, so it needs as many of these, in order")
        offset: Doubles = (vectors - anchors).mean(axis=0, keepdims=True)
        return offset

    def moved(self, vectors: Doubles, learned: Doubles) -> Doubles:
        return vectors - self.alpha * learned


AnyMethod = Annotated[Centering | Lir | Shift, Field(discriminator="kind")]
METHODS: Mapping[str, type[Method]] = {"centering": Centering, "lir": Lir, "shift": Shift}


def make_method(kind: str, origin: str = "the command line", **settings: Any) -> Method:
    """The method of that name; settings that are None keep their defaults.

    Raises:
        ConfigError: no such method, or a setting that it does not have.
    """
    if kind not in METHODS:
        raise ConfigError(f"{origin}: no method is called {kind!r}; known are {', '.join(METHODS)}")
    return METHODS[kind].make({key: value for key, value in settings.items() if value is not None}, f"{origin}: {kind}")
