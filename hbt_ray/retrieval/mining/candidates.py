"""Candidates for hard negatives: the passages of a dataset in one language, and the rules that choose among them.

A candidate is a passage that the model ranks near the question and that is not the question's own. It may still answer
the question: RocketQA (2010.08191) found that about 70 % of the top unlabelled passages of MS MARCO do. A negative must
therefore score clearly below the question's own passage, as in NV-Retriever (2407.15831), and must not look like an
answer. No model runs here: the functions get scores as arguments.
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
"""Rules that drop a candidate, in the order in which they are applied; it is counted under the first that holds."""
MIN_ANSWER_LENGTH = 3
"""Minimum length of an answer in characters for the rule `holds the answer`, since shorter ones occur in half of all
passages."""


def _parsed_ranks(value: Any) -> Any:
    """`10:100` → (10, 100)."""
    if isinstance(value, str):
        bounds = [part.strip() for part in value.split(":")]
        if len(bounds) != 2 or not all(map(str.isdigit, bounds)):
            raise ValueError("write FIRST:LAST, such as 10:100")
        return tuple(map(int, bounds))
    return value


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
    """Rules that choose the negatives of a question among its passages."""

    language: Language | None = None
    """Language in which questions and passages are compared. Default: for each dataset, the language of most items."""
    datasets: tuple[str, ...] = ()
    """Datasets of the store to mine; empty means all."""
    ranks: Ranks = (1, 100)
    """First and last rank of negatives, counted from 1 over all passages except the question's own. `10:100` leaves out
    the nine nearest, which are most often unlabelled answers."""
    max_share: float = Field(0.95, gt=0, le=1)
    """A negative must score below this share of the positive's score (TopK-PercPos of 2407.15831); 1 disables it."""
    margin: float = Field(0.0, ge=0)
    """A negative must score below the positive's score minus this margin; 0 disables it. Suitable values depend on the
    model."""
    keep: int = Field(10, gt=0)
    """Maximum number of negatives per item; those with the best ranks are kept. Training uses some of them in turn."""

    def ceiling(self, positive: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Scores that negatives must stay below, from the scores of the positives: [n] → [n].

        The missing share is subtracted by its absolute value, so that the ceiling of a score below 0 is not above it.
        """
        return np.minimum(positive - self.margin, positive - (1 - self.max_share) * np.abs(positive))


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The questions and the distinct passages of a dataset in one language.

    Items whose passages have one id or one text share a document, the passage of the first of them.
    """

    items: Indices
    """[questions]: numbers of the items that have the language."""
    questions: list[str]
    answers: list[str]
    """[questions]: normalised answers; empty if there is none or it is shorter than `MIN_ANSWER_LENGTH`."""
    positives: Indices
    """[questions]: number of the document that is each question's own passage."""
    documents: list[str]
    document_items: Indices
    """[documents]: number of the item of each document."""
    texts: list[str]
    """[documents]: normalised documents."""
    text_numbers: Indices
    """[documents]: numbers that are equal for equal normalised texts."""
    question_numbers: Indices
    """[questions]: numbers that are equal for equal normalised questions."""
    answered: Indices
    """Sorted codes `question number * number of documents + text number` of all labelled answers to a question."""


def read_candidates(store: Store, info: DatasetInfo, language: str) -> Candidates:
    """The candidates of a dataset; at least one of its items must have the language."""

    def texts(side: str, items: Indices) -> list[str]:
        # The code 0 is the only language, `language`.
        return store.texts_of(info.name, side, items, np.zeros(len(items), np.int16), (language,))

    pool = LanguageIndex(info, (language,), 0.0).pool(0)
    items = pool.items(np.arange(pool.size))
    questions, positive_keys = texts("question", items), store.positive_keys(info.name, items)
    # Column 0 is the key of the item's own passage: equal keys are one document, that of item `first`.
    keys, first, positives = np.unique(positive_keys[:, 0], return_index=True, return_inverse=True)
    documents = texts("passage", items[first])
    normalised_documents = [normalised(text) for text in documents]
    question_numbers, text_numbers = (
        _numbers([normalised(question) for question in questions]),
        _numbers(normalised_documents),
    )
    # [questions, n]: the document of each key; a passage that lacks the language is no document, so its key differs.
    right = np.minimum(np.searchsorted(keys, positive_keys), len(keys) - 1)
    row, place = np.nonzero(keys[right] == positive_keys)
    answered = np.unique(question_numbers[row] * len(documents) + text_numbers[right[row, place]])
    return Candidates(
        items,
        questions,
        [_comparable_answer(answer) for answer in texts("answer", items)],
        positives,
        documents,
        items[first],
        normalised_documents,
        text_numbers,
        question_numbers,
        answered,
    )


class ChosenNegatives(NamedTuple):
    """The negatives of some questions, and how many candidates each rule dropped."""

    documents: Indices
    """[questions, keep], hardest first; -1 if there are fewer."""
    scores: Floats
    """[questions, keep]; NaN if there is no document."""
    dropped: npt.NDArray[np.int64]
    """[`DROP_REASONS`]: number of candidates within the window of ranks that each rule dropped."""
    positive: Floats
    """[questions]: score of each question with its own passage."""


def choose_negatives(
    candidates: Candidates, rows: slice, retrieved: Indices, scores: Floats, positive: Floats, config: MineConfig
) -> ChosenNegatives:
    """Choose the negatives of some questions among the retrieved documents.

    Args:
        rows: slice of the questions.
        retrieved: [rows, k] documents with the highest scores, best first; k exceeds the last rank, or is the number of
            documents.
        scores: [rows, k] scores of `retrieved`.
        positive: [rows] score of each question with its own passage.
    """
    right = candidates.positives[rows]
    other = retrieved != right[:, None]
    ranks = np.cumsum(other, axis=1)  # [rows, k]: ranks that do not count the question's own passage
    kept = other & (ranks >= config.ranks[0]) & (ranks <= config.ranks[1])
    dropped = np.zeros(len(DROP_REASONS), dtype=np.int64)

    def drop(reason: int, which: Flags) -> None:
        dropped[reason] = np.count_nonzero(kept & which)
        kept[which] = False

    drop(0, scores.astype(np.float64) >= config.ceiling(positive.astype(np.float64))[:, None])
    drop(1, candidates.text_numbers[retrieved] == candidates.text_numbers[right][:, None])
    pairs = candidates.question_numbers[rows][:, None] * len(candidates.documents) + candidates.text_numbers[retrieved]
    # `searchsorted` may return the length, one past the last code, so it is capped.
    places = np.minimum(np.searchsorted(candidates.answered, pairs), len(candidates.answered) - 1)
    drop(2, candidates.answered[places] == pairs)
    # The answer counts anywhere in the text, even within a word, since words are inflected at both ends.
    answers, holds_answer = candidates.answers[rows], np.zeros(retrieved.shape, dtype=bool)
    for row, place in zip(*(index.tolist() for index in np.nonzero(kept)), strict=True):
        answer = answers[row]
        holds_answer[row, place] = bool(answer) and answer in candidates.texts[retrieved[row, place]]
    drop(3, holds_answer)
    order = np.cumsum(kept, axis=1) - 1  # column of each kept document among the negatives of its question
    hardest = np.nonzero(kept & (order < config.keep))
    chosen = np.full((len(retrieved), config.keep), -1, dtype=np.int64)
    chosen_scores = np.full(chosen.shape, np.nan, dtype=np.float32)
    chosen[hardest[0], order[hardest]] = retrieved[hardest]
    chosen_scores[hardest[0], order[hardest]] = scores[hardest]
    return ChosenNegatives(chosen, chosen_scores, dropped, positive)


def normalised(text: str) -> str:
    """The words of a text in lower case without punctuation, or its characters in scripts without spaces."""
    return " ".join(normalised_tokens(text))


def _comparable_answer(answer: str) -> str:
    text = normalised(answer)
    return text if len(text.replace(" ", "")) >= MIN_ANSWER_LENGTH else ""


def _numbers(texts: list[str]) -> Indices:
    """[texts]: numbers that are equal for equal texts."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts], dtype=np.int64)
