"""A fitted transform: the parameters of a method for each language, kept in one file and applied to vectors.

MODEL/posthoc/centering.safetensors    tensors `<side>.<language>` [k, width]; the header's `hbt_ray` is JSON with the
                                       method, the encoder's fingerprint and the numbers of texts
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hbt_ray.errors import ConfigError, ModelError
from hbt_ray.retrieval.transforms.methods import AnyMethod, Method
from hbt_ray.storage import AnyPath, ObjectPath, atomic_file, names_in, temporary_folder, valid_name
from hbt_ray.storage.atomic import P

logger = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]

SUFFIX = ".safetensors"
_HEADER, _CHECKSUM = "hbt_ray", "checksum"
_NAME = re.compile(r"[\w.-]+")
_ROWS_AT_ONCE = 65_536
_MIN_LENGTH = 1e-12
"""Lower limit of the length by which a moved vector is divided, since a vector may become zero."""


def check_transform_path(path: P) -> P:
    """The path, unchanged. Raises ConfigError if the file's stem cannot be part of the name of a result."""
    stem = path.name.removesuffix(SUFFIX)
    if stem == path.name or not _NAME.fullmatch(stem):
        raise ConfigError(
            f"{path}: call it NAME{SUFFIX}, with a NAME of letters, digits, '.', '-' and '_'", code="INVALID_NAME"
        )
    valid_name(stem, "posthoc")
    return path


@dataclass(frozen=True)
class Transform:
    """A method with the parameters that were fitted to an encoder."""

    name: str
    """Name in results, and stem of the file."""
    method: Method
    parameters: Mapping[str, Mapping[str, Vectors]]
    """Side → language → [k, width]."""
    unit: bool
    """Whether the encoder's vectors have unit length; moved vectors are then normalised."""
    encoder: str
    """Fingerprint of the encoder that the transform was fitted to, with its prompts and length."""
    texts: Mapping[str, Mapping[str, int]]
    """Side → language → number of texts that the transform was fitted on."""

    @cached_property
    def fingerprint(self) -> str:
        """Checksum of everything that determines the moved vectors."""
        digest = hashlib.sha256(self._header().encode())
        for name, tensor in sorted(self._tensors().items()):
            digest.update(name.encode() + tensor.tobytes())
        return digest.hexdigest()[:16]

    def apply(self, vectors: npt.ArrayLike, languages: Sequence[str], side: str) -> Vectors:
        """Moved copies of vectors, [n, width].

        Vectors in a language that was not fitted are not moved, and a warning names the language.

        Args:
            vectors: [n, width] vectors of texts of one side.
            languages: [n] languages of these texts.
            side: `QUESTION` or `PASSAGE`.

        Raises:
            ConfigError: the numbers of languages and vectors differ, or the width is not that of the fit.
        """
        moved = np.array(vectors, np.float32)  # always a copy
        if moved.ndim != 2 or len(moved) != len(languages):
            raise ConfigError(
                f"posthoc {self.name}: vectors of shape {moved.shape} for {len(languages)} languages; give [n, width] "
                "and a language for each",
                code="INVALID_VECTORS",
            )
        fitted = self.parameters.get(side, {})
        # Vectors in the anchor language are meant to stay, so it is not named in the warning.
        unfitted = sorted(set(languages) - {*fitted, self.method.anchor or ""})
        if unfitted and side in self.method.sides:
            logger.warning(
                "posthoc %s was not fitted for %s: these %ss are not moved, while others are",
                self.name, ", ".join(unfitted), side,
            )  # fmt: skip
        tags = np.asarray(languages, dtype=np.str_)
        for language in sorted(set(languages) & fitted.keys()):
            if moved.shape[1] != (width := fitted[language].shape[1]):
                raise ConfigError(
                    f"posthoc {self.name}: made for vectors of {width} numbers, not of {moved.shape[1]}",
                    code="OTHER_ENCODER",
                )
            rows = np.flatnonzero(tags == language)
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                part = rows[start : start + _ROWS_AT_ONCE]
                block = self.method.move(moved[part].astype(np.float64), fitted[language].astype(np.float64))
                if self.unit:
                    # einsum for the reason given in `Lir.move`.
                    lengths = np.sqrt(np.einsum("nw,nw->n", block, block))[:, None]
                    block = block / np.maximum(lengths, _MIN_LENGTH)
                moved[part] = block
        return moved

    def save(self, path: P) -> P:
        """Write the file `path`, completely or not at all.

        Raises:
            ConfigError: see `check_transform_path`, or the file cannot be written.
        """
        check_transform_path(path)
        try:
            with atomic_file(path) as scratch:
                save_file(self._tensors(), scratch, {_HEADER: self._header(), _CHECKSUM: self.fingerprint})
        except (OSError, SafetensorError) as error:
            raise ConfigError(
                f"{path}: cannot be written ({error}); name another place with --out", code="STORAGE"
            ) from None
        return path

    @classmethod
    def load(cls, path: AnyPath) -> Transform:
        """Read a file of `save`. Raises ModelError if it is missing, damaged or not a transform."""
        if isinstance(path, ObjectPath) and path.exists():
            with temporary_folder("transform") as folder:
                path.download(folder / path.name)
                return cls.load(folder / path.name)
        if isinstance(path, ObjectPath) or not path.is_file():
            names = names_in(path.parent)
            others = [name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)]
            known = f"there are {', '.join(others)}" if others else "none was fitted yet"
            raise ModelError(
                f"{path}: does not exist; {known}. Make a transform with `hbt posthoc MODEL --store STORE`",
                code="INVALID_TRANSFORM",
            )
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                header: dict[str, Any] = json.loads(metadata[_HEADER])
                method = TypeAdapter[Method](AnyMethod).validate_python(header.pop("method"))
                parameters: dict[str, dict[str, Vectors]] = {}
                for name in file.keys():  # noqa: SIM118  # `safe_open` is not a mapping.
                    side, _, language = name.partition(".")
                    parameters.setdefault(side, {})[language] = file.get_tensor(name)
            transform = cls(path.stem, method, parameters, **header)  # The other keys are fields of the class.
            # safetensors does not detect changed tensors.
            if transform.fingerprint != metadata[_CHECKSUM]:
                raise ValueError("its checksum does not match its content")
            return transform
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, ValidationError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"{path}: is not a transform, or is damaged ({reason}); run `hbt posthoc` again",
                code="INVALID_TRANSFORM",
            ) from None

    def _tensors(self) -> dict[str, Vectors]:
        return {
            f"{side}.{language}": matrix
            for side, by_language in self.parameters.items()
            for language, matrix in by_language.items()
        }

    def _header(self) -> str:
        header = {"method": self.method.model_dump(mode="json"), "unit": self.unit, "encoder": self.encoder}
        # `default=dict` writes mappings that are not dictionaries.
        return json.dumps({**header, "texts": self.texts}, sort_keys=True, default=dict)
