"""Tokens: from texts to padded arrays, in one batched call of the Rust tokenizer.

Uses `tokenizers` directly: a data task must not pay the seconds that importing transformers costs. The text is prompt
plus text, cut to a length, which is what SentenceTransformer.encode does too, so training and serving see equal ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Padded token ids."""

    ids: NDArray[np.int32]
    """[rows, longest row]; what lies behind a row's length means nothing."""
    lengths: NDArray[np.int32]
    """[rows]"""


def tokenise(tokenizer_json: str, prompt: str, texts: list[str], max_length: int) -> Tokens:
    """Encode `prompt + text` with special tokens, at most `max_length` ids each."""
    tokenizer = _tokenizer(tokenizer_json)
    tokenizer.enable_truncation(max_length)
    encodings = tokenizer.encode_batch_fast([prompt + text for text in texts])
    rows = [encoding.ids for encoding in encodings]
    lengths = np.fromiter(map(len, rows), np.int32, len(rows))
    ids = np.zeros((len(rows), int(lengths.max(initial=0))), dtype=np.int32)
    ids[np.arange(ids.shape[1]) < lengths[:, None]] = np.concatenate(rows) if rows else []
    return Tokens(ids, lengths)


@lru_cache(maxsize=4)
def _tokenizer(tokenizer_json: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_padding()
    return tokenizer
