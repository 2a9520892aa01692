"""What `prepare` needs of a training source, and the settings that all sources share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol

from hbt_ray.config import Config
from hbt_ray.data.formats.source_row import BadRow, SourceRow
from hbt_ray.storage.location import Location


class SourcePart(Protocol):
    """A stream of rows."""

    def rows(self) -> Iterator[SourceRow | BadRow]:
        """All rows in a fixed order, as a stream.

        Raises:
            SourceError: a file cannot be read.
        """
        ...


class Source(Config):
    """The rows of one origin."""

    name: str
    """Name of the source in the manifest; also that of its dataset, unless a column names the dataset."""
    licence: str = ""
    """Licence of the data, for the manifest."""

    @abstractmethod
    def locations(self) -> list[str]:
        """Files and folders that the configuration names; `prepare` notices when one of them changes."""

    @abstractmethod
    def rows(self) -> Iterator[SourceRow | BadRow]:
        """See `SourcePart.rows`."""

    def parts(self) -> Sequence[SourcePart]:
        """Parts that can be read in parallel; one after the other they have the rows of the source, in its order."""
        return [self]


class PathSource(Source):
    """A source that is one file or folder."""

    path: Location
    """File or folder, or a URI such as `s3://bucket/folder`."""

    def locations(self) -> list[str]:
        return [self.path]
