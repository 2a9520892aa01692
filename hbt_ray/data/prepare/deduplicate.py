"""Stage 3: find duplicates, rows whose question and passage another item has in the same language.

Of rows with equal texts in one language, the row of the item with the most languages stays; among equals, the first by
dataset and hash. So a translated item does not lose a language because of a copy of that one version.

Texts are equal if they are so after NFKC normalisation, in lower case, and with white space collapsed. Their hashes are
compared in shares: ranges of the hash that are independent of each other.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hbt_ray.data.prepare.hash_buckets import Bucket, bucket_of, read_bucket, write_buckets
from hbt_ray.data.prepare.task_runner import TaskResult
from hbt_ray.storage.folder import Folder

_TEXT_KEYS = pa.schema(
    [("key", pa.uint64()), ("num_languages", pa.int32()), ("dataset", pa.string()), ("hash", pa.uint64()),
     ("bucket", pa.int32()), ("row", pa.int32())]
)  # fmt: skip
"""`key` is the hash of a row's texts, `num_languages` that of its item, and `hash` that of (dataset, item id)."""


def normalise_text(text: str) -> str:
    """NFKC, lower case, and white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def text_key(language: str, question: str, passage: str) -> int:
    """Hash of a row's texts; equal for rows of one language with equal normalised texts."""
    text = "\0".join((language, normalise_text(question), normalise_text(passage)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def write_text_keys(
    folder: Folder,
    bucket: Bucket,
    table: pa.Table,
    rows: NDArray[np.int64],
    num_languages: NDArray[np.int64],
    num_shares: int,
) -> None:
    """Write the hashes of the rows' texts, for `find_duplicates`.

    Args:
        table: rows of the bucket that stay.
        rows: their numbers in the bucket.
        num_languages: number of languages of each row's item.
    """
    columns = (table[name].to_pylist() for name in ("language", "question", "passage"))
    keys = np.fromiter((text_key(*texts) for texts in zip(*columns, strict=True)), np.uint64, len(rows))
    bucket_column = np.full(len(rows), bucket.number)
    key_table = pa.table([keys, num_languages, table["dataset"], table["hash"], bucket_column, rows], schema=_TEXT_KEYS)
    write_buckets(folder, f"{bucket.name}.keys.arrow", key_table, bucket_of(keys, num_shares), num_shares)


def find_duplicates(folder: Folder, keys: Folder, share: int, num_buckets: int) -> TaskResult:
    """Task: compare one share of the text hashes and write the duplicates, by bucket.

    Args:
        keys: folder with the files of `write_text_keys`.

    Returns:
        Dataset → number of duplicates.
    """
    files = [(keys, f"{bucket:05d}.keys.arrow") for bucket in range(num_buckets)]
    table = read_bucket(files, share)
    dataset = table["dataset"].dictionary_encode().combine_chunks()
    # Position of each dataset in alphabetical order.
    ranks = np.argsort(np.argsort(np.array(dataset.dictionary.to_pylist(), dtype=object)))
    key, num_languages, hashes, bucket = (table[name].to_numpy() for name in ("key", "num_languages", "hash", "bucket"))
    dataset_rank = ranks[dataset.indices.to_numpy()] if len(table) else np.empty(0, np.int64)
    order = np.lexsort((hashes, dataset_rank, -num_languages, key))
    # All rows of a key but the first one.
    duplicates = order[1:][key[order][1:] == key[order][:-1]]
    removed = table.take(pa.array(duplicates))
    write_buckets(folder, f"{share:05d}.arrow", removed.select(["row"]), bucket[duplicates], num_buckets)
    return {"duplicates": Counter(removed["dataset"].to_pylist())}


def read_duplicates(folder: Folder, bucket: int, num_shares: int) -> NDArray[np.int64]:
    """Sorted row numbers of a bucket's duplicates, which `find_duplicates` wrote."""
    shares = ((folder, f"{share:05d}.arrow") for share in range(num_shares))
    return np.sort(read_bucket(shares, bucket)["row"].to_numpy()).astype(np.int64)
