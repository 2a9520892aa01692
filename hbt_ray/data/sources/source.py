"""The interface of training sources: `prepare` reads any object that has these members."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from hbt_ray.data.formats.source_row import BadRow, SourceRow


class SourcePart(Protocol):
    """A stream of rows."""

    def rows(self) -> Iterator[SourceRow | BadRow]:
        """All rows in a fixed order, as a stream.

        Raises:
            SourceError: a file cannot be read.
        """
        ...


class Source(SourcePart, Protocol):
    """The rows of one origin."""

    @property
    def name(self) -> str:
        """Name of the origin in the manifest."""
        ...

    @property
    def licence(self) -> str:
        """Licence of the data, for the manifest; may be empty."""
        ...

    def locations(self) -> list[str]:
        """Files and folders that the configuration names; `prepare` notices when one of them changes."""
        ...

    def parts(self) -> Sequence[SourcePart]:
        """Parts that can be read in parallel; one after the other they have the rows of the source, in its order."""
        ...
