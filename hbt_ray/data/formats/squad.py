"""SQuAD's JSON, one file a language: `data[].paragraphs[].{context, qas[].{id, question, answers}}`.

Published by rajpurkar/SQuAD-explorer, and for translations by google-deepmind/xquad. The files of LAReQA (Roy et al.
2020, arXiv 2004.05484; XQuAD-R and MLQA-R) also have `sentence_breaks` in each paragraph: the [start, end) character
spans of its sentences. Files with equal question ids are translations of one another. The whole file is held in memory.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from hbt_ray.data.formats.json_records import member, read_json
from hbt_ray.data.formats.source_row import BadRow, BadRowError
from hbt_ray.data.formats.training_pairs import UNANSWERABLE, is_marked_unanswerable
from hbt_ray.errors import SourceError


class SquadQuestion(NamedTuple):
    """A question on a paragraph."""

    where: str
    id: str
    text: str
    answer: str
    """Text of the first answer; empty if the file has none."""
    answer_start: int | BadRow
    """Character of the context at which the first answer starts."""


@dataclass(frozen=True, slots=True)
class SquadParagraph:
    """A paragraph with its questions."""

    where: str
    key: str
    """Number of the article and of the paragraph, the same in all translations of the file."""
    context: str
    sentences: list[tuple[int, int] | BadRow] | BadRow | None
    """[start, end) of each sentence; None without `sentence_breaks`."""
    questions: list[SquadQuestion | BadRow]

    def answer_sentence(self, question: SquadQuestion) -> tuple[int, int] | BadRow:
        """Span of the sentence in which the first answer starts; an answer may run over its end."""
        start = question.answer_start
        if isinstance(start, BadRow):
            return start
        for span in self.sentences if isinstance(self.sentences, list) else ():
            if not isinstance(span, BadRow) and span[0] <= start < span[1]:
                return span
        return BadRow(
            question.where, "answer_start lies in none of the sentence_breaks, which count characters, not bytes"
        )


def read_squad(location: str) -> Iterator[SquadParagraph | BadRow]:
    """The paragraphs of a file.

    Raises:
        SourceError: the file is missing, not JSON, or has no list `data`.
    """
    tree = read_json(location)
    try:
        articles = member(tree, "data", list, location)
    except BadRowError as error:
        raise SourceError(f"{location}: {error.reason}; SQuAD's JSON is needed", code="NOT_SQUAD") from None
    is_version_2 = str(tree.get("version", "")).lower().startswith(("2", "v2"))
    for a, article in enumerate(articles):
        where = f"{location}: data[{a}]"
        try:
            paragraphs = member(article, "paragraphs", list, where)
        except BadRowError as error:
            yield BadRow(where, error.reason)
            continue
        for p, node in enumerate(paragraphs):
            try:
                yield _paragraph(node, f"{a}.{p}", f"{where}.paragraphs[{p}]", is_version_2)
            except BadRowError as error:
                yield BadRow(error.where, error.reason)


def _paragraph(node: Any, key: str, where: str, is_version_2: bool) -> SquadParagraph:
    context, qas = member(node, "context", str, where), member(node, "qas", list, where)
    sentences: list[tuple[int, int] | BadRow] | BadRow | None = None
    if isinstance(spans := node.get("sentence_breaks"), list):
        sentences = [_span(span, len(context), f"{where}.sentence_breaks[{s}]") for s, span in enumerate(spans)]
    elif spans is not None:
        sentences = BadRow(where, "sentence_breaks is not a list")
    questions = [_question(qa, f"{where}.qas[{q}]", is_version_2) for q, qa in enumerate(qas)]
    return SquadParagraph(where, key, context, sentences, questions)


def _span(span: Any, length: int, where: str) -> tuple[int, int] | BadRow:
    match span:
        case [int(start), int(end)] if 0 <= start < end <= length:
            return start, end
    return BadRow(where, f"{reprlib.repr(span)} is no [start, end) span within the context of {length} characters")


def _question(qa: Any, where: str, is_version_2: bool) -> SquadQuestion | BadRow:
    if _is_unanswerable(qa, is_version_2):
        return BadRow(where, UNANSWERABLE)
    try:
        question_id, text = member(qa, "id", str, where), member(qa, "question", str, where)
    except BadRowError as error:
        return BadRow(where, error.reason)
    first = answers[0] if isinstance(answers := qa.get("answers"), list) and answers else {}
    answer, start = (first.get("text"), first.get("answer_start")) if isinstance(first, dict) else (None, None)
    if not isinstance(start, int) or isinstance(start, bool):
        start = BadRow(where, "no answer_start of a first answer, so no sentence is the right one")
    return SquadQuestion(where, question_id, text, answer if isinstance(answer, str) else "", start)


def _is_unanswerable(qa: Any, is_version_2: bool) -> bool:
    """Whether SQuAD 2.0 says that the paragraph has no answer.

    Not all translations of SQuAD 2.0 keep `is_impossible`; in those, an empty list of answers says the same.
    """
    if not isinstance(qa, dict):
        return False
    if is_marked_unanswerable(qa.get("is_impossible")):
        return True
    return qa.get("answers") == [] and (is_version_2 or "plausible_answers" in qa) and "is_impossible" not in qa
