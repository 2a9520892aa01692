"""The manifest: the contents of a store in numbers. A plan needs no other data.

Items of a dataset are stored sorted by their set of languages. So the items that have a language, or a pair, are a few
ranges of row numbers, and a manifest of a billion items stays a few kilobytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property

from pydantic import BaseModel, ConfigDict

from hbt_ray.errors import ConfigError
from hbt_ray.storage import Name, RelativePath, with_checksum

VERSION = 2
"""Version of the layout of manifest and shards; readers refuse any other version."""


class ManifestRecord(BaseModel):
    """An immutable part of a manifest, which allows no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LanguageGroup(ManifestRecord):
    """Consecutive items of a dataset that exist in the same languages."""

    languages: tuple[str, ...]
    num_items: int


class Shard(ManifestRecord):
    """One Arrow IPC file; shards follow one another in the order of the items."""

    file: RelativePath
    num_items: int
    sha256: str
    """SHA-256 of the file."""
    checksums: str
    """SHA-256 of the checksums in the file (`hbt_ray.data.store.shard_checksums`)."""


class DatasetInfo(ManifestRecord):
    """Items of one origin."""

    name: Name
    groups: tuple[LanguageGroup, ...]
    shards: tuple[Shard, ...]
    max_right: int = 1
    """Largest number of passages that answer one question, its own included."""
    sources: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()

    @property
    def num_items(self) -> int:
        return sum(group.num_items for group in self.groups)

    @cached_property
    def languages(self) -> tuple[str, ...]:
        return tuple(sorted({language for group in self.groups for language in group.languages}))

    @property
    def items_by_language(self) -> dict[str, int]:
        return {
            language: sum(group.num_items for group in self.groups if language in group.languages)
            for language in self.languages
        }


class Manifest(ManifestRecord):
    """The contents of a store."""

    version: int = VERSION
    datasets: tuple[DatasetInfo, ...]
    spec: str = ""
    """Fingerprint of the configuration and sources that the store was prepared from."""

    @cached_property
    def languages(self) -> tuple[str, ...]:
        return tuple(sorted({language for dataset in self.datasets for language in dataset.languages}))

    @property
    def num_items(self) -> int:
        return sum(dataset.num_items for dataset in self.datasets)

    def chosen(self, names: Sequence[str]) -> tuple[DatasetInfo, ...]:
        """The datasets with these names; all of them if there are no names.

        Raises:
            ConfigError: the store has no dataset of a name.
        """
        known = [dataset.name for dataset in self.datasets]
        if unknown := sorted({*names} - {*known}):
            raise ConfigError(
                f"datasets={','.join(unknown)}: the store has only {', '.join(known)}", code="UNKNOWN_DATASET"
            )
        # In the order of the manifest, whatever the order of the names.
        return tuple(dataset for dataset in self.datasets if not names or dataset.name in names)

    def to_json(self) -> bytes:
        """The content of the manifest's file, with its own checksum."""
        # Readable by people: indented, and names of datasets unescaped.
        return json.dumps(with_checksum(self.model_dump(mode="json")), indent=1, ensure_ascii=False).encode()

    @cached_property
    def checksum(self) -> str:
        """Checksum of everything that determines the text of an item number."""
        # Without `spec`: other settings may give the same items.
        datasets = self.model_dump(mode="json", include={"version", "datasets"})
        # 64 bits are enough to tell stores apart.
        return hashlib.sha256(json.dumps(datasets, sort_keys=True).encode()).hexdigest()[:16]
