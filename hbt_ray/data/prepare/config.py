"""The recipe: what a store is made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from hbt_ray.config import Config, Language
from hbt_ray.data.formats.files import fingerprint
from hbt_ray.data.index.manifest import VERSION
from hbt_ray.data.sources.published_datasets import BeirSource, MiraclSource, MmarcoSource, SquadSource
from hbt_ray.data.sources.tables import BitextSource, HubSource, TableSource
from hbt_ray.data.sources.worldfacts import WorldfactsSource
from hbt_ray.storage.location import Location

AnySource = Annotated[
    WorldfactsSource | TableSource | SquadSource | BeirSource | MiraclSource | MmarcoSource | BitextSource | HubSource,
    Field(discriminator="kind"),
]

_BUCKET_BYTES = 8 << 20
"""Of the sources' files, most of them compressed: some 32 MB of text a bucket."""
_MAX_BUCKETS = 8192
_HUB_BYTES = 1 << 30
"""Taken for the size of a data set on the hub, which is not known before it is read."""


class StoreConfig(Config):
    """What a store is made of."""

    path: Location
    """A folder that every machine of the cluster sees, or a URI such as `s3://bucket/stores/one`."""
    sources: tuple[AnySource, ...] = Field(min_length=1)
    decontaminate: tuple[AnySource, ...] = ()
    """Evaluation data, read like sources: items that overlap with it in any language are removed."""
    languages: dict[str, Language] = Field(default_factory=dict)
    """What sources call a language → what the store calls it, such as `{zh-CN: zh}` where evaluation data has `zh`, or
    `{german: de}` for what is no tag. Tried as a source spells it, then by the canonical tag."""
    deduplicate: bool = True
    """Of rows with equal question and passage in one language, keep one: that of the item with most languages."""
    max_rejected: float = Field(0.01, ge=0, le=1)
    """Share of rows that may be rejected before the run fails."""
    shard_items: int = Field(50_000, gt=0)
    """Items of one file."""
    seed: int = 0
    """Of the shuffle."""

    def num_source_bytes(self) -> int:
        """Size of the sources' files, as far as it can be known before they are read."""
        return sum(size or 0 for source in self.sources for _, size, _ in _files(source))

    def num_buckets(self) -> int:
        """A power of two."""
        wanted = max(1, -(-self.num_source_bytes() // _BUCKET_BYTES))
        return min(_MAX_BUCKETS, 1 << (wanted - 1).bit_length())

    def fingerprint(self) -> str:
        """Of the settings and of the files that they name, by size and time of change."""
        files = [_files(source) for source in (*self.sources, *self.decontaminate)]
        # Stores are older than `languages`: without any, theirs is the same.
        unsaid = {"path"} if self.languages else {"path", "languages"}
        return _digest(self.model_dump(mode="json", exclude=unsaid), files)

    def reading(self, source: AnySource, num_buckets: int) -> str:
        """Fingerprint of all that decides what reading one source leaves behind."""
        return _digest(source.model_dump(mode="json"), _files(source), self.languages, self.seed, num_buckets)


def _files(source: AnySource) -> Sequence[tuple[str, int | None, int | None]]:
    if isinstance(source, HubSource) and not source.locations():
        return [(source.path, _HUB_BYTES, None)]
    return [file for path in source.locations() for file in fingerprint(path)]


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps([VERSION, *parts], sort_keys=True).encode()).hexdigest()[:16]
