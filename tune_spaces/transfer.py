"""What does a language family gain from the others if it is not trained on?

For each family of the store a pair of runs, one with its languages and one without. Both are measured on questions and
passages in these languages and in English. The families are those of `hbt_ray.languages.families`.

Costs two runs for each family.
"""

from typing import Any

from hbt_ray.data.store.store import read_manifest
from hbt_ray.errors import ConfigError
from hbt_ray.languages.families import family
from hbt_ray.tune import Space

FAMILIES = ["Indo-European", "Afro-Asiatic", "Turkic", "Sino-Tibetan", "Austro-Asiatic", "Kra-Dai"]
PIVOT = "en"


def configure(values: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    languages = read_manifest(base["store"]).languages
    members = [tag for tag in languages if family(tag).family == values["family"] and tag != PIVOT]
    if not members:
        raise ConfigError(f"the store has no language of the family {values['family']!r}; remove it from FAMILIES")
    if values["trained"] == "without":
        languages = tuple(tag for tag in languages if tag not in members)
    return {"plan.languages": list(languages), "validation.languages": [PIVOT, *members]}


SPACE = Space(search={"family": FAMILIES, "trained": ["with", "without"]}, configure=configure)
