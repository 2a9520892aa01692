"""worldfacts: question-passage items in eleven languages, made of Unicode CLDR as `babel` packages it; no download.

CLDR codes → `facts` (what holds between entities) → `split` (which facts are held out) → `names` and `phrases`
(what a fact reads like in a language) → `source` (rows).
"""

from __future__ import annotations

from hbt_ray.data.sources.worldfacts.names import LANGUAGES
from hbt_ray.data.sources.worldfacts.source import WorldfactsSource, rows
from hbt_ray.data.sources.worldfacts.split import SPLITS, Split

__all__ = ["LANGUAGES", "SPLITS", "Split", "WorldfactsSource", "rows"]
