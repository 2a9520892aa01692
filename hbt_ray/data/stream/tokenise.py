"""Tokens: from texts to ids, in one batched call of the Rust tokenizer.

Uses `tokenizers` directly: a data task must not pay the seconds that importing transformers costs. The text is prompt
plus text, cut to a length, which is what SentenceTransformer.encode does too, so training and serving see equal ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

# An encoding holds far more than its ids, so those of many texts fall out of the processor's cache: a text costs
# 17.5 µs in calls of 64 or 128 texts, 18.8 in calls of 512, 20 to 24 in calls of 8,192.
_TEXTS_AT_ONCE = 128


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Ids of some texts, end to end; padding is made where the encoder runs, for the rows that it takes at once."""

    ids: NDArray[np.int32]
    """[sum of lengths]"""
    lengths: NDArray[np.int32]
    """[rows]"""

    def __len__(self) -> int:
        return len(self.lengths)

    def split(self, sizes: Sequence[int]) -> list[Tokens]:
        """Consecutive parts of so many texts each, views of the same arrays."""
        ends = np.cumsum(sizes)
        lengths = np.split(self.lengths, ends[:-1])
        places = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])[ends[:-1]]
        return [Tokens(*parts) for parts in zip(np.split(self.ids, places), lengths, strict=True)]

    def take(self, rows: NDArray[np.int64]) -> Tokens:
        """Some of the texts, in the order of `rows`."""
        lengths = self.lengths[rows]
        starts = (np.cumsum(self.lengths) - self.lengths)[rows]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return Tokens(self.ids[np.repeat(starts, lengths) + within], lengths)

    def padded(self, padding_id: int) -> NDArray[np.int32]:
        """[rows, longest row]."""
        ids = np.full((len(self), int(self.lengths.max(initial=0))), padding_id, dtype=np.int32)
        ids[np.arange(ids.shape[1]) < self.lengths[:, None]] = self.ids
        return ids


def tokenise(tokenizer_json: str, prompt: str, texts: list[str], max_length: int) -> Tokens:
    """Encode `prompt + text` with special tokens, at most `max_length` ids each."""
    tokenizer = _tokenizer(tokenizer_json)
    tokenizer.enable_truncation(max_length)
    ids, lengths = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        encodings = tokenizer.encode_batch_fast([prompt + text for text in texts[start : start + _TEXTS_AT_ONCE]])
        rows = [encoding.ids for encoding in encodings]
        lengths.append(np.fromiter(map(len, rows), np.int32, len(rows)))
        ids.append(np.fromiter(chain.from_iterable(rows), np.int32, int(lengths[-1].sum())))
    return Tokens(np.concatenate(ids), np.concatenate(lengths))


@lru_cache(maxsize=4)
def _tokenizer(tokenizer_json: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_padding()
    return tokenizer
