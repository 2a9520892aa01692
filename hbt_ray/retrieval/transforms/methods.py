"""Post-hoc methods: each fits parameters to a language's vectors, and moves that language's vectors by them.

The class of a method is also its configuration. The parameters of a language and a side are a matrix [k, width].
Questions and passages are fitted separately, since their prompts move them to different places.
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
    """A post-hoc method, with the settings that all methods have."""

    kind: str
    """Name of the method."""
    texts: int = Field(1_000, gt=1)
    """Number of texts per language and side to fit on; all texts are used if the store has fewer."""
    languages: Languages = ()
    """Languages to fit; empty means all languages of the store."""
    datasets: tuple[str, ...] = ()
    """Datasets of the store to fit on; empty means all. If the languages have texts of different kinds, the method also
    fits the kind of text; a parallel dataset avoids that."""

    @property
    @abstractmethod
    def sides(self) -> tuple[str, ...]:
        """Sides whose vectors are moved."""

    @property
    def anchor(self) -> str | None:
        """Language whose parallel texts the others are compared with; its vectors are not moved."""
        return None

    @property
    def min_texts(self) -> int:
        """Minimum number of texts of a language; languages with fewer are not fitted."""
        return 2

    @abstractmethod
    def fit(self, vectors: Doubles, anchors: Doubles | None) -> Doubles:
        """Parameters of a language, [k, width].

        Args:
            vectors: [n, width] vectors of the language's texts.
            anchors: [n, width] vectors of their translations into the anchor language, if the method has one.
        """

    @abstractmethod
    def move(self, vectors: Doubles, parameters: Doubles) -> Doubles:
        """Remove what is typical of the language from its vectors: [m, width] → [m, width]."""


class _BothSides(Method):
    documents_only: bool = False
    """Move passages only: an index can then be corrected without a change to the encoding of queries."""

    @property
    def sides(self) -> tuple[str, ...]:
        return (PASSAGE,) if self.documents_only else SIDES


class Centering(_BothSides):
    """x - m, where m is the mean of the language's vectors (2004.05160)."""

    kind: Literal["centering"] = "centering"

    def fit(self, vectors: Doubles, anchors: Doubles | None) -> Doubles:
        return np.asarray(vectors.mean(axis=0, keepdims=True))  # [1, width]

    def move(self, vectors: Doubles, parameters: Doubles) -> Doubles:
        return vectors - parameters


class Lir(_BothSides):
    """x - V Vᵀ x, where V holds the first right-singular vectors of the language's vectors, which are not centred
    (2109.04727)."""

    kind: Literal["lir"] = "lir"
    directions: int = Field(1, gt=0)
    """Number of directions to remove; one is best in the paper."""

    @property
    def min_texts(self) -> int:
        return self.directions + 1

    def fit(self, vectors: Doubles, anchors: Doubles | None) -> Doubles:
        width = vectors.shape[1]
        if self.directions >= width:
            raise ConfigError(f"directions={self.directions}: vectors of {width} numbers would have nothing left")
        # [2] is Vᵀ, whose rows are sorted by singular value, the largest first.
        return np.asarray(np.linalg.svd(vectors, full_matrices=False)[2][: self.directions])

    def move(self, vectors: Doubles, parameters: Doubles) -> Doubles:
        # einsum, since sums of BLAS depend on a row's position: equal vectors must stay equal, so that they tie.
        projections = np.einsum("nw,kw->nk", vectors, parameters)
        return np.asarray(vectors - np.einsum("nk,kw->nw", projections, parameters))


class Shift(Method):
    """x - alpha · v, where v is the mean of f(text) - f(its translation into the source language) over parallel
    passages (2606.18801, equation 1 and algorithm 1). Questions and passages in the source language are not moved."""

    kind: Literal["shift"] = "shift"
    alpha: float = Field(1.0, gt=0, le=1)
    """Share of the offset to subtract; 1 subtracts all of it. The paper's best values are 0.6 to 1, by encoder."""
    source: Language = "en"
    """Language that the others are compared with; its vectors are not moved."""

    @property
    def sides(self) -> tuple[str, ...]:
        return (PASSAGE,)

    @property
    def anchor(self) -> str:
        return self.source

    def fit(self, vectors: Doubles, anchors: Doubles | None) -> Doubles:
        if anchors is None or anchors.shape != vectors.shape:
            raise ConfigError("shift compares texts with their translations; give a translation of each, in order")
        return np.asarray((vectors - anchors).mean(axis=0, keepdims=True))  # [1, width]

    def move(self, vectors: Doubles, parameters: Doubles) -> Doubles:
        return vectors - self.alpha * parameters


AnyMethod = Annotated[Centering | Lir | Shift, Field(discriminator="kind")]
METHODS: Mapping[str, type[Method]] = {"centering": Centering, "lir": Lir, "shift": Shift}


def make_method(kind: str, origin: str = "the command line", **settings: Any) -> Method:
    """A method by name; settings that are None keep their defaults.

    Args:
        origin: where the settings come from, for errors.

    Raises:
        ConfigError: an unknown method, or a setting that it does not have.
    """
    if kind not in METHODS:
        raise ConfigError(
            f"{origin}: no method is called {kind!r}; known are {', '.join(METHODS)}", code="UNKNOWN_METHOD"
        )
    return METHODS[kind].make({key: value for key, value in settings.items() if value is not None}, f"{origin}: {kind}")
