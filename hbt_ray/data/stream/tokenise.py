"""Conversion of texts to token ids, and the arrays that carry the ids from the tokeniser to the encoder.

`tokenise` calls the Rust tokenizer directly, because importing transformers would cost every data task seconds. A text
is prompt plus text, cut to a length, as in `SentenceTransformer.encode`, so training and serving use equal ids.

`Tokens` keeps the ids of many texts in one array, with a start and a length for each text. `TokenSections` adds the
boundaries of a batch's questions, passages, negatives and auxiliary texts. Texts are selected, sorted and left out by
their starts and lengths, so ids are only copied to send them to another process and to pad a micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, chain, pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from hbt_ray.data.index.permutation import Indices

# An encoding holds far more than its ids, so the encodings of many texts do not fit into the processor's cache: a text
# costs 17.5 µs in calls of 64 or 128 texts, 18.8 in calls of 512, 20 to 24 in calls of 8,192.
_TEXTS_PER_CALL = 128


@dataclass(frozen=True, slots=True)
class TokenisingConfig:
    """Tokenizer, prompts and maximum lengths of questions and passages."""

    tokenizer_json: str
    question_prompt: str
    passage_prompt: str
    max_question_length: int
    """Maximum number of tokens of a question, special tokens included."""
    max_passage_length: int

    def questions(self, texts: list[str]) -> Tokens:
        return tokenise(self.tokenizer_json, self.question_prompt, texts, self.max_question_length)

    def passages(self, texts: list[str]) -> Tokens:
        return tokenise(self.tokenizer_json, self.passage_prompt, texts, self.max_passage_length)


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Token ids of texts: text i is `ids[starts[i] : starts[i] + lengths[i]]`. A text of length 0 is missing."""

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    """[texts]"""
    lengths: NDArray[np.int32]
    """[texts]"""

    @classmethod
    def from_lengths(cls, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> Self:
        """Texts whose ids follow one another without gaps."""
        return cls(ids, np.cumsum(lengths, dtype=np.int64) - lengths, lengths)

    @classmethod
    def concatenate(cls, parts: Sequence[Tokens]) -> Self:
        """The texts of all parts, their ids copied into one array."""
        return cls.from_lengths(
            np.concatenate([part.flat_ids() for part in parts]), np.concatenate([part.lengths for part in parts])
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, texts: slice | Indices) -> Tokens:
        """Some of the texts, in the order of `texts`; their ids are not copied."""
        return Tokens(self.ids, self.starts[texts], self.lengths[texts])

    def flat_ids(self) -> NDArray[np.int32]:
        """The ids of the texts, one text after the other; a view if they already follow one another in `ids`."""
        ends = self.starts + self.lengths
        if not len(self):
            return self.ids[:0]
        if np.array_equal(self.starts[1:], ends[:-1]):
            return self.ids[int(self.starts[0]) : int(ends[-1])]
        # Position of every id: the start of its text, repeated, plus its place within the text.
        within = np.arange(self.lengths.sum()) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)
        flat: NDArray[np.int32] = self.ids[np.repeat(self.starts, self.lengths) + within]
        return flat

    def padded(self, padding_id: int) -> NDArray[np.int32]:
        """The ids as a matrix [texts, longest text], padded on the right."""
        columns = np.arange(int(self.lengths.max(initial=0)))
        # [texts, longest text]: True for ids, False for padding.
        present = columns < self.lengths[:, None]
        padded = np.full(present.shape, padding_id, dtype=np.int32)
        padded[present] = self.ids[(self.starts[:, None] + columns)[present]]
        return padded

    def scattered(self, rows: Indices, num_rows: int) -> Tokens:
        """`num_rows` texts: these at `rows`, in ascending order, and missing ones elsewhere."""
        # A missing text has length 0, so the ids stay as they are.
        lengths = np.zeros(num_rows, np.int32)
        lengths[rows] = self.lengths
        return Tokens.from_lengths(self.flat_ids(), lengths)


@dataclass(frozen=True, slots=True, eq=False)
class TokenSections:
    """The texts of a batch in named sections: all questions, then all passages, and so on."""

    tokens: Tokens
    bounds: dict[str, slice]
    """Section → range of its texts, in order."""

    @classmethod
    def of_sizes(cls, tokens: Tokens, sizes: Mapping[str, int]) -> Self:
        """Consecutive sections with these numbers of texts."""
        ends = accumulate(sizes.values(), initial=0)
        return cls(tokens, {name: slice(*bounds) for name, bounds in zip(sizes, pairwise(ends), strict=True)})

    @classmethod
    def concatenate(cls, sections: Mapping[str, Tokens]) -> Self:
        return cls.of_sizes(
            Tokens.concatenate(list(sections.values())), {name: len(tokens) for name, tokens in sections.items()}
        )

    def __contains__(self, name: str) -> bool:
        return name in self.bounds

    def __getitem__(self, name: str) -> Tokens:
        return self.tokens[self.bounds[name]]

    @property
    def sizes(self) -> dict[str, int]:
        """Texts of each section, missing ones included."""
        return {name: bounds.stop - bounds.start for name, bounds in self.bounds.items()}

    @property
    def present(self) -> NDArray[np.bool_]:
        """Whether each text exists, [texts]."""
        return self.tokens.lengths > 0

    def select(self, names: Sequence[str]) -> TokenSections:
        """Only these sections, in this order, without copying ids. Names without a section are left out."""
        chosen = {name: self.bounds[name] for name in names if name in self.bounds}
        # The empty array is for the case of no section: `concatenate` needs one.
        texts = [np.empty(0, np.int64), *(np.arange(bounds.start, bounds.stop) for bounds in chosen.values())]
        sizes = {name: self.sizes[name] for name in chosen}
        return TokenSections.of_sizes(self.tokens[np.concatenate(texts)], sizes)


def tokenise(tokenizer_json: str, prompt: str, texts: list[str], max_length: int) -> Tokens:
    """Encode `prompt + text` with special tokens, at most `max_length` ids each."""
    tokenizer = _tokenizer(tokenizer_json)
    # At every call, because questions and passages share the cached tokenizer.
    tokenizer.enable_truncation(max_length)
    ids, lengths = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    for start in range(0, len(texts), _TEXTS_PER_CALL):
        encodings = tokenizer.encode_batch_fast([prompt + text for text in texts[start : start + _TEXTS_PER_CALL]])
        # Only the ids are kept; see `_TEXTS_PER_CALL`.
        rows = [encoding.ids for encoding in encodings]
        lengths.append(np.fromiter(map(len, rows), np.int32, len(rows)))
        ids.append(np.fromiter(chain.from_iterable(rows), np.int32, int(lengths[-1].sum())))
    return Tokens.from_lengths(np.concatenate(ids), np.concatenate(lengths))


@lru_cache(maxsize=4)
def _tokenizer(tokenizer_json: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_padding()
    return tokenizer
