"""Candidates: the passages of one dataset in one language, and which of them are negatives of a question.

A candidate is a passage that the model ranks near the question and that is not the question's own. It may answer the
question all the same: of the top passages of MS MARCO that nobody had marked, RocketQA (2010.08191) found some 70 % to
do so. A negative must therefore be clearly outscored by the question's own passage, as in NV-Retriever (2407.15831),
and must not look like an answer. Everything here is pure: vectors and scores come from outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from hbt_ray.config import Config, Language
from hbt_ray.data.index.language_index import LanguageIndex
from hbt_ray.data.index.manifest import DatasetInfo
from hbt_ray.data.index.permutation import Indices
from hbt_ray.data.prepare.decontaminate import normalised_tokens
from hbt_ray.data.store.store import Store
from hbt_ray.retrieval.search.exact_scores import Floats

Flags = npt.NDArray[np.bool_]

DROP_REASONS = ("scores near the positive", "same text", "answers the question", "holds the answer")
"""Why a candidate is no negative, in the order in which it is asked; the first that holds counts."""
SHORTEST_ANSWER = 3
"""Characters; shorter answers occur in half of all passages."""


def _parsed_ranks(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    first, colon, last = value.partition(":")
    if not colon or not first.strip().isdigit() or not last.strip().isdigit():
        raise ValueError("write FIRST:LAST, such as 10:100")
    return int(first), int(last)


def _checked_ranks(ranks: tuple[int, int]) -> tuple[int, int]:
    if not 1 <= ranks[0] <= ranks[1]:
        raise ValueError("an empty window; write FIRST:LAST with 1 <= FIRST <= LAST, such as 10:100")
    return ranks


Ranks = Annotated[
    tuple[int, int],
    BeforeValidator(_parsed_ranks),
    AfterValidator(_checked_ranks),
    PlainSerializer(lambda ranks: f"{ranks[0]}:{ranks[1]}"),
]


class MineConfig(Config):
    """Which passages become negatives of a question."""

    language: Language | None = None
    """That questions and passages are compared in; by default, for each dataset, the one that most items have."""
    datasets: tuple[str, ...] = ()
    """To mine, of the store; empty means all."""
    ranks: Ranks = (1, 100)
    """First and last rank, counted from 1 over all passages but the question's own. `10:100` leaves out the nine
    nearest, which are most often answers that nobody marked."""
    max_share: float = Field(0.95, gt=0, le=1)
    """A negative scores below this share of the positive's score (TopK-PercPos of 2407.15831); 1 asks for less."""
    margin: float = Field(0.0, ge=0)
    """A negative scores below the positive's score less this; cosines of unlike models need unlike margins."""
    keep: int = Field(10, gt=0)
    """Negatives of an item at most, those of the highest ranks; training takes some of them in turn."""

    def ceiling(self, positive: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """What a negative must score below. Of a positive score below zero the share is taken as far to the other side,
        so that the ceiling is never above the positive."""
        return np.minimum(positive - self.margin, positive - (1 - self.max_share) * np.abs(positive))


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The questions and the distinct passages of a dataset in one language.

    Items that have the same passage, by id or text, are one document, that of the first of them.
    """

    items: Indices
    """Item numbers that have the language, [questions]."""
    questions: list[str]
    answers: list[str]
    """Normalised, empty where there is none or it is too short to tell anything, [questions]."""
    positives: Indices
    """The document that answers each question, [questions]."""
    documents: list[str]
    document_items: Indices
    """The item that each document stands for, [documents]."""
    texts: list[str]
    """The documents, normalised."""
    text_numbers: Indices
    """Equal where normalised texts are, [documents]."""
    question_numbers: Indices
    """Equal where normalised questions are, [questions]."""
    answered: Indices
    """Sorted: question number · documents + text number, for every passage that answers a question by the data."""


def read_candidates(store: Store, info: DatasetInfo, language: str) -> Candidates:
    """The candidates of a dataset, of whose items some have the language."""

    def texts(side: str, items: Indices) -> list[str]:
        return store.texts_of(info.name, side, items, np.zeros(len(items), np.int16), (language,))

    pool = LanguageIndex(info, (language,), 0.0).pool(0)
    items = pool.items(np.arange(pool.size))
    questions, right_keys = texts("question", items), store.right_keys(info.name, items)
    keys, first, positives = np.unique(right_keys[:, 0], return_index=True, return_inverse=True)
    documents = texts("passage", items[first])
    plain = [normalised(text) for text in documents]
    question_numbers, text_numbers = _numbers([normalised(question) for question in questions]), _numbers(plain)
    # Other passages that answer a question may lack the language; those that have it are documents.
    right = np.minimum(np.searchsorted(keys, right_keys), len(keys) - 1)
    row, place = np.nonzero(keys[right] == right_keys)
    answered = np.unique(question_numbers[row] * len(documents) + text_numbers[right[row, place]])
    return Candidates(
        items,
        questions,
        [_telling(answer) for answer in texts("answer", items)],
        positives,
        documents,
        items[first],
        plain,
        text_numbers,
        question_numbers,
        answered,
    )


class NegativeChoice(NamedTuple):
    """The negatives of some questions."""

    documents: Indices
    """[questions, keep], hardest first, -1 where there are fewer."""
    scores: Floats
    """[questions, keep], NaN where there is no document."""
    dropped: npt.NDArray[np.int64]
    """Candidates within the window of ranks that are no negatives, for each of `DROP_REASONS`."""


def choose_negatives(
    candidates: Candidates, rows: slice, found: Indices, scores: Floats, positive: Floats, config: MineConfig
) -> NegativeChoice:
    """Which of the documents found become negatives.

    Args:
        rows: of the questions.
        found: [rows, k] documents of the highest scores, best first, with k > the last rank or all documents.
        scores: [rows, k]
        positive: [rows] score of each question with its own passage.
    """
    own = candidates.positives[rows]
    other = found != own[:, None]
    ranks = np.cumsum(other, axis=1)
    kept = other & (ranks >= config.ranks[0]) & (ranks <= config.ranks[1])
    dropped = np.zeros(len(DROP_REASONS), dtype=np.int64)

    def drop(reason: int, which: Flags) -> None:
        dropped[reason] = np.count_nonzero(kept & which)
        kept[which] = False

    drop(0, scores.astype(np.float64) >= config.ceiling(positive.astype(np.float64))[:, None])
    drop(1, candidates.text_numbers[found] == candidates.text_numbers[own][:, None])
    pairs = candidates.question_numbers[rows][:, None] * len(candidates.documents) + candidates.text_numbers[found]
    places = np.minimum(np.searchsorted(candidates.answered, pairs), len(candidates.answered) - 1)
    drop(2, candidates.answered[places] == pairs)
    drop(3, _holds_answer(candidates, rows, found, kept))
    order = np.cumsum(kept, axis=1) - 1
    row, place = np.nonzero(kept & (order < config.keep))
    chosen = np.full((len(found), config.keep), -1, dtype=np.int64)
    chosen[row, order[row, place]] = found[row, place]
    given = np.full(chosen.shape, np.nan, dtype=np.float32)
    given[row, order[row, place]] = scores[row, place]
    return NegativeChoice(chosen, given, dropped)


def normalised(text: str) -> str:
    """Words in lower case without punctuation, a space between each; in unspaced scripts, characters."""
    return " ".join(normalised_tokens(text))


def _holds_answer(candidates: Candidates, rows: slice, found: Indices, asked: Flags) -> Flags:
    """Where a document holds the answer of the question, anywhere: words bend and grow at both ends."""
    holds = np.zeros(found.shape, dtype=bool)
    answers = candidates.answers[rows]
    told = np.array([bool(answer) for answer in answers], dtype=bool)
    row, place = np.nonzero(asked & told[:, None])
    documents = found[row, place].tolist()
    holds[row, place] = [
        answers[number] in candidates.texts[document] for number, document in zip(row.tolist(), documents, strict=True)
    ]
    return holds


def _telling(answer: str) -> str:
    text = normalised(answer)
    return text if len(text.replace(" ", "")) >= SHORTEST_ANSWER else ""


def _numbers(texts: list[str]) -> Indices:
    """Equal numbers for equal texts."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts], dtype=np.int64)
