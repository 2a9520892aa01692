"""What does a language family gain from the others, if it is never trained on?

For each family of the store a pair of runs, with its languages and without them, both measured on questions and
passages in these languages and in English. The families are those of `hbt_ray.languages.families`.

Costs two runs a family.
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
    own = [tag for tag in languages if family(tag).family == values["family"] and tag != PIVOT]
    if not own:
        raise ConfigError(f"the store has no language of the family {values['family']!r}; take it out of FAMILIES")
    if values["trained"] == "without":
        languages = tuple(tag for tag in languages if tag not in own)
    return {"plan.languages": list(languages), "validation.languages": [PIVOT, *own]}


SPACE = Space(search={"family": FAMILIES, "trained": ["with", "without"]}, configure=configure)
