"""Hugging Face `datasets`: a name on the hub, or a local folder that `datasets.load_dataset` understands.

Rows are streamed, so nothing is downloaded whole. The library is optional: `pip install 'hbt-ray[hub]'`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from hbt_ray.config import Config, Language
from hbt_ray.data.formats.records import Record
from hbt_ray.data.formats.source_row import BadRow, SourceRow
from hbt_ray.data.formats.training_pairs import ColumnNames, Reader
from hbt_ray.errors import SourceError

logger = logging.getLogger(__name__)


class HubSource(Config):
    """A split of a data set: one row a language version of an item, or one of the `forms`."""

    kind: Literal["hub"]
    name: str
    path: str
    """Name on the hub, such as `miracl/miracl`, or a local folder."""
    config: str = ""
    """Configuration of the data set, often a language; empty: its only one."""
    split: str = "train"
    revision: str = "main"
    """Commit, tag or branch on the hub; a commit keeps the data the same for ever."""
    language: Language | Literal[""] = ""
    """Of all rows, where no column says it."""
    licence: str = ""
    columns: ColumnNames = ColumnNames()

    def locations(self) -> list[str]:
        return [self.path] if Path(self.path).exists() else []

    def parts(self) -> list[HubSource]:
        return [self]

    def rows(self) -> Iterator[SourceRow | BadRow]:
        where = f"{self.path} {self.split}"
        reader = Reader(self.columns, self.language, where)
        for number, values in enumerate(self._stream()):
            yield from reader.rows(Record(f"{where}: row {number}", values))
        for note, count in reader.notes.items():
            logger.warning("%s: %s: %d times", where, note, count)

    def _stream(self) -> Iterator[dict[str, Any]]:
        try:
            import datasets
        except ImportError:
            raise SourceError(
                f"source {self.name!r} is of kind hub, which needs the library datasets: pip install 'hbt-ray[hub]'"
            ) from None
        # Older versions ask on the terminal whether to run code that comes with the data: it is never run.
        datasets.config.HF_DATASETS_TRUST_REMOTE_CODE = False
        revision = None if self.locations() else self.revision
        try:
            yield from datasets.load_dataset(
                self.path, self.config or None, split=self.split, revision=revision, streaming=True
            )
        except GeneratorExit:
            raise
        except Exception as error:  # The library and its readers raise whatever their own libraries do.
            reason = " ".join(str(error).split())[:500] or type(error).__name__
            raise SourceError(f"{self.path}: datasets cannot read it ({reason})") from None
