"""Buckets: files whose record batches are ranges of a hash, so that a task reads only its own bytes of every file.

`prepare` deals the rows of the sources into buckets by the hash of (dataset, item id). A bucket is a range of that
hash; other hashes, such as those of texts, are divided into shares in the same way. A file of buckets holds one record
batch per bucket.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hbt_ray.storage.location import Folder

Hashes = NDArray[np.uint64]

_TEXT_COLUMNS = (
    "dataset", "item_id", "language", "question", "passage", "answer", "question_id", "passage_id", "where"
)  # fmt: skip
ROW_SCHEMA = pa.schema([*((name, pa.string()) for name in _TEXT_COLUMNS), ("hash", pa.uint64())])
"""Rows between the stages. `hash` is that of (dataset, item id): a random number that determines the shuffle."""


def normalise_text(text: str) -> str:
    """NFKC, lower case, and white space collapsed: texts with equal results count as equal."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def text_hash(*parts: str) -> int:
    """A 64-bit hash of some texts."""
    # Texts with a NUL were rejected, so the joined text is unambiguous.
    return int.from_bytes(hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest(), "little")


def bucket_of(hashes: Hashes, num_buckets: int) -> NDArray[np.int64]:
    """The bucket of each hash: buckets in order are hashes in order. `num_buckets` is a power of two."""
    bits = num_buckets.bit_length() - 1
    # The leading bits; a shift by 64 is undefined, hence the case of one bucket.
    return (hashes >> np.uint64(64 - bits)).astype(np.int64) if bits else np.zeros(len(hashes), np.int64)


def write_buckets(folder: Folder, name: str, table: pa.Table, buckets: NDArray[np.int64], num_buckets: int) -> None:
    """Write a file with one record batch per bucket; rows of a bucket keep their order.

    Args:
        buckets: bucket of each row, [rows].
    """
    table = table.take(pa.array(np.argsort(buckets, kind="stable"))).combine_chunks()
    ends = np.cumsum(np.bincount(buckets, minlength=num_buckets)).tolist()
    # After `combine_chunks` a table that is not empty has one batch; an empty one has none.
    rows = table.to_batches()[0] if len(table) else pa.RecordBatch.from_pylist([], schema=table.schema)
    with folder.create_arrow(name, table.schema) as writer:
        for start, end in zip([0, *ends], ends, strict=False):
            writer.write(rows.slice(start, end - start))


def read_bucket(files: Iterable[tuple[Folder, str]], number: int) -> pa.Table:
    """The rows of one bucket, file by file."""
    batches = [folder.open_arrow(name).get_batch(number) for folder, name in files]
    # `from_batches` needs at least one batch, for the schema.
    return pa.Table.from_batches([batch for batch in batches if len(batch)] or batches[:1])


class Bucket(NamedTuple):
    """Rows of the sources in one range of hashes, in the order of the sources."""

    files: tuple[tuple[Folder, str], ...]
    number: int

    @property
    def name(self) -> str:
        """The bucket's number, for file names."""
        return f"{self.number:05d}"

    def table(self) -> pa.Table:
        """The rows, as in `ROW_SCHEMA`."""
        return read_bucket(self.files, self.number)


def rejection_record(where: str, reason: str, item_id: str = "", language: str = "") -> dict[str, str]:
    """A line of `rejected.jsonl`; `where` is file and line of the row."""
    return {"where": where, "reason": reason, "item_id": item_id[:200], "language": language[:200]}


def removal_record(table: pa.Table, row: int, reason: str, text: str, *, num_rows: int) -> dict[str, Any]:
    """A line of `removed.jsonl` about `num_rows` rows that were removed because of `text`."""
    names = {name: table[name][row].as_py() for name in ("dataset", "item_id", "language")}
    return {**names, "reason": reason, "text": text[:500], "num_rows": num_rows}
