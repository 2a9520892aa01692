"""worldfacts: question-passage items in eleven languages, made from Unicode CLDR as `babel` packages it; no download.

`facts` reads relations between codes from CLDR and splits them, `entities` reads the names of the codes in each
language, and `phrases` makes questions, passages and rows.
"""

from __future__ import annotations

from hbt_ray.data.sources.worldfacts.entities import LANGUAGES
from hbt_ray.data.sources.worldfacts.facts import SPLITS, Split
from hbt_ray.data.sources.worldfacts.phrases import WorldfactsSource

__all__ = ["LANGUAGES", "SPLITS", "Split", "WorldfactsSource"]
