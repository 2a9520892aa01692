"""`StoreConfig`: the configuration of a store, and fingerprints that change with its settings and sources."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from hbt_ray.config import Config, Language
from hbt_ray.data.formats.files import file_states
from hbt_ray.data.index.manifest import VERSION
from hbt_ray.data.sources.file_sources import (
    BeirSource,
    BitextSource,
    HubSource,
    MiraclSource,
    MmarcoSource,
    SquadSource,
    TableSource,
)
from hbt_ray.data.sources.worldfacts import WorldfactsSource
from hbt_ray.storage.location import Location

AnySource = Annotated[
    WorldfactsSource | TableSource | SquadSource | BeirSource | MiraclSource | MmarcoSource | BitextSource | HubSource,
    Field(discriminator="kind"),
]

_BUCKET_BYTES = 8 << 20
"""Source bytes per bucket. Most sources are compressed, so a bucket holds about 32 MB of text."""
_MAX_BUCKETS = 8192
"""Every file of rows holds one record batch per bucket, so more buckets would make many tiny batches."""
_HUB_BYTES = 1 << 30
"""Assumed size in bytes of a data set on the hub, whose size is unknown before it is read."""


class StoreConfig(Config):
    """Sources of a store and how they are prepared."""

    path: Location
    """Folder of the store, on a file system that all machines of the cluster share, or a URI such as
    `s3://bucket/stores/one`."""
    sources: tuple[AnySource, ...] = Field(min_length=1)
    """Data sets to read; at least one."""
    decontaminate: tuple[AnySource, ...] = ()
    """Evaluation data, read like sources. Items that overlap with it in any language are removed."""
    languages: dict[str, Language] = Field(default_factory=dict)
    """Language in a source → language in the store, such as `{zh-CN: zh}` if the evaluation data has `zh`, or
    `{german: de}` for a name that is not a tag. The source's spelling is looked up first, then the canonical tag."""
    deduplicate: bool = True
    """Remove rows with equal question and passage in one language, except that of the item with the most languages."""
    max_rejected: float = Field(0.01, ge=0, le=1)
    """Largest share of rows that may be rejected; if more are, no store is made."""
    shard_items: int = Field(50_000, gt=0)
    """Number of items per shard, which is one file."""
    seed: int = 0
    """Seed of the shuffle."""

    def num_source_bytes(self) -> int:
        """Size of the sources' files, as far as it is known before they are read."""
        return sum(size or 0 for source in self.sources for _, size, _ in _files(source))

    def num_buckets(self) -> int:
        """Number of buckets for the sources' size: a power of two."""
        # `-(-a // b)` rounds up.
        num_buckets = max(1, -(-self.num_source_bytes() // _BUCKET_BYTES))
        return min(_MAX_BUCKETS, 1 << (num_buckets - 1).bit_length())  # The next power of two.

    def fingerprint(self) -> str:
        """Hash of all settings but the path, and of the path, size and modification time of the sources' files."""
        files = [_files(source) for source in (*self.sources, *self.decontaminate)]
        # An empty mapping is left out of the fingerprint, as if the setting did not exist.
        excluded = {"path"} if self.languages else {"path", "languages"}
        return _digest(self.model_dump(mode="json", exclude=excluded), files)

    def read_fingerprint(self, source: AnySource, num_buckets: int) -> str:
        """Hash of everything that determines the result of reading one source."""
        return _digest(source.model_dump(mode="json"), _files(source), self.languages, self.seed, num_buckets)


def _files(source: AnySource) -> Sequence[tuple[str, int | None, int | None]]:
    """Path, size and modification time of a source's files."""
    if isinstance(source, HubSource) and not source.locations():
        return [(source.path, _HUB_BYTES, None)]
    return [file for path in source.locations() for file in file_states(path)]


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps([VERSION, *parts], sort_keys=True).encode()).hexdigest()[:16]
