"""Family, branch and script of languages, by which results are grouped.

Family and branch come from `families.yaml`, which names its sources. The script is that of the tag if it has one,
else the script that CLDR calls most likely (`zh` → `Hans`, `zh-TW` → `Hant`, `pa-PK` → `Arab`).
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
    """Family, branch and script of a language; unknown ones are `unknown`."""

    family: str
    """Family, such as `Indo-European`."""
    branch: str
    """Branch of the family, such as `Germanic`."""
    script: str
    """ISO 15924 code of the script, such as `Latn`."""


@lru_cache(maxsize=4096)
def family(tag: str) -> Family:
    """The family of a language in any spelling that `normalise_tag` takes: `de` → Indo-European, Germanic, Latn.

    A text that is not a language tag gives `unknown`, not an error.
    """
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
        # Only a script has four letters: a region has two, or three digits.
        if len(part) == 4 and part.isalpha():
            return part
    # Without a script the first subtag is, as a rule, the region, which may change the likely script.
    return likely_script(language, finer[0] if finer else "") or UNKNOWN
