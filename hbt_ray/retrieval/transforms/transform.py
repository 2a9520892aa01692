"""The fix: what a method has learned of each language, in one file, and the way of vectors through it.

MODEL/posthoc/centering.safetensors    tensors `<side>.<language>` [k, width]; the header's `hbt_ray` is JSON that
                                       says which method, fitted to which encoder, on how many texts
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hbt_ray.errors import ConfigError, ModelError
from hbt_ray.retrieval.transforms.methods import AnyMethod, Method
from hbt_ray.storage import atomic_file, valid_name

logger = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]

SUFFIX = ".safetensors"
_HEADER, _CHECKSUM = "hbt_ray", "checksum"
_NAME = re.compile(r"[\w.-]+")
_ROWS_AT_ONCE = 65_536
_NONE = 1e-12
"""A vector shorter than it has no direction that could be kept."""


def check_transform_path(path: Path) -> Path:
    """Raises: ConfigError where results could not be named after the file."""
    if path.suffix != SUFFIX or not _NAME.fullmatch(path.stem):
        raise ConfigError(f"{path}: call it NAME{SUFFIX}, with a NAME of letters, digits, '.', '-' and '_'")
    valid_name(path.stem, "posthoc")
    return path


@dataclass(frozen=True)
class Transform:
    """A fitted method."""

    name: str
    """What results call it, and the stem of its file."""
    method: Method
    learned: Mapping[str, Mapping[str, Vectors]]
    """Side → language → [k, width]."""
    unit: bool
    """The encoder's vectors have length one, so they get it back."""
    encoder: str
    """Fingerprint of the encoder that it was fitted to, with its prompts and length."""
    texts: Mapping[str, Mapping[str, int]]
    """Side → language → how many it was learned from."""

    @cached_property
    def fingerprint(self) -> str:
        """Of all that decides where vectors go."""
        digest = hashlib.sha256(self._header().encode())
        for name, tensor in sorted(self._tensors().items()):
            digest.update(name.encode() + tensor.tobytes())
        return digest.hexdigest()[:16]

    def apply(self, vectors: npt.ArrayLike, languages: Sequence[str], side: str) -> Vectors:
        """The vectors [n, width] of texts of one side in these languages [n], moved; those given stay as they are.

        Vectors in a language that the fix does not know stay where they are, and a warning names it.

        Raises:
            ConfigError: as many languages as vectors are needed, of the width that the fix was fitted to.
        """
        fixed = np.array(vectors, np.float32)
        if fixed.ndim != 2 or len(fixed) != len(languages):
            raise ConfigError(
                f"posthoc {self.name}: vectors of shape {fixed.shape} for {len(languages)} languages; give [n, width] "
                "and a language for each"
            )
        known = self.learned.get(side, {})
        if unknown := self.unknown(languages, side):
            logger.warning(
                "posthoc %s was not fitted for %s: these %ss stay where they are, beside others that moved",
                self.name, ", ".join(unknown), side,
            )  # fmt: skip
        asked = np.asarray(languages, dtype=np.str_)
        for language in sorted(set(languages) & known.keys()):
            if fixed.shape[1] != (width := known[language].shape[1]):
                raise ConfigError(f"posthoc {self.name}: made for vectors of {width} numbers, not of {fixed.shape[1]}")
            rows = np.flatnonzero(asked == language)
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                part = rows[start : start + _ROWS_AT_ONCE]
                fixed[part] = self._moved(fixed[part].astype(np.float64), known[language].astype(np.float64))
        return fixed

    def unknown(self, languages: Sequence[str], side: str) -> list[str]:
        """Those of a side that it moves which it was not fitted for."""
        if side not in self.method.sides:
            return []
        return sorted(set(languages) - {*self.learned.get(side, {}), self.method.anchor or ""})

    def _moved(self, vectors: npt.NDArray[np.float64], learned: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        moved = self.method.moved(vectors, learned)
        if self.unit:
            lengths = np.sqrt(np.einsum("nw,nw->n", moved, moved))[:, None]
            moved = moved / np.maximum(lengths, _NONE)
        return moved

    def save(self, path: Path) -> Path:
        """Write the file `path`, whole or not at all.

        Raises:
            ConfigError: see `check_transform_path`, or the place refuses.
        """
        check_transform_path(path)
        try:
            with atomic_file(path) as scratch:
                save_file(self._tensors(), scratch, {_HEADER: self._header(), _CHECKSUM: self.fingerprint})
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{path}: cannot be written ({error}); name another place with --out") from None
        return path

    @classmethod
    def load(cls, path: Path) -> Transform:
        """Raises: ModelError where the file is missing or is no fix."""
        if not path.is_file():
            others = sorted(file.stem for file in path.parent.glob(f"*{SUFFIX}"))
            there = f"there are {', '.join(others)}" if others else "none was fitted yet"
            raise ModelError(f"{path}: no such fix; {there}. Make one with `hbt posthoc MODEL --store STORE`")
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                header: dict[str, Any] = json.loads(metadata[_HEADER])
                method = TypeAdapter[Method](AnyMethod).validate_python(header.pop("method"))
                learned: dict[str, dict[str, Vectors]] = {}
                for name in file.keys():  # noqa: SIM118  # no mapping, whatever it looks like
                    side, _, language = name.partition(".")
                    learned.setdefault(side, {})[language] = file.get_tensor(name)
            fix = cls(path.stem, method, learned, **header)
            if fix.fingerprint != metadata[_CHECKSUM]:
                raise ValueError("its checksum does not match its content")
            return fix
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, ValidationError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"{path}: is not a transform, or is damaged ({reason}); run `hbt posthoc` again",
                code="INVALID_TRANSFORM",
            ) from None

    def _tensors(self) -> dict[str, Vectors]:
        return {f"{side}.{language}": of for side, by in self.learned.items() for language, of in by.items()}

    def _header(self) -> str:
        header = {"method": self.method.model_dump(mode="json"), "unit": self.unit, "encoder": self.encoder}
        return json.dumps({**header, "texts": self.texts}, sort_keys=True, default=dict)
