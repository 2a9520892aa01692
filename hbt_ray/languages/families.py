"""Families: where a language belongs, so that results can be read by family, branch and script.

Family and branch come from `families.yaml`, which names its sources; the script is the tag's own where it has one, and
else the one that CLDR holds for likely (`zh` → `Hans`, `zh-TW` → `Hant`, `pa-PK` → `Arab`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

import yaml

from hbt_ray.languages.tags import likely_script, normalise_tag

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Family:
    """Each is `unknown` where nothing is known."""

    family: str
    """`Indo-European`."""
    branch: str
    """`Germanic`."""
    script: str
    """By its code of ISO 15924, `Latn`."""


@lru_cache(maxsize=4096)
def family(tag: str) -> Family:
    """`de` → Indo-European, Germanic, Latn. Any spelling that `normalise_tag` takes; else unknown, no error."""
    try:
        language, *finer = normalise_tag(tag).split("-")
    except ValueError:
        return Family(UNKNOWN, UNKNOWN, UNKNOWN)
    return Family(*_places().get(language, (UNKNOWN, UNKNOWN)), _script(language, finer))


@cache
def _places() -> dict[str, tuple[str, str]]:
    """Language → family and branch."""
    table = yaml.safe_load(files(__package__).joinpath("families.yaml").read_text(encoding="utf-8"))
    return {code: (name, branch) for name, row in table.items() for branch, codes in row.items() for code in codes}


def _script(language: str, finer: list[str]) -> str:
    for part in finer:
        if len(part) == 4 and part.isalpha():
            return part
    return likely_script(language, finer[0] if finer else "") or UNKNOWN
