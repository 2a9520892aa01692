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
from hbt_ray.data.formats.source_row import BadRow, BadRowError, parse_rows
from hbt_ray.data.formats.training_pairs import UNANSWERABLE, is_marked_unanswerable
from hbt_ray.errors import SourceError


class SquadQuestion(NamedTuple):
    """A question on a paragraph."""

    where: str
    id: str
    text: str
    answer: str
    """Text of the first answer; empty if the file has none."""
    answer_start: int | None
    """Position of the first answer in the context, in characters; None if the file has none."""


@dataclass(frozen=True, slots=True)
class SquadParagraph:
    """A paragraph with its questions."""

    where: str
    key: str
    """Numbers of article and paragraph, such as `3.0`; the same in all translations of the file."""
    context: str
    sentence_breaks: Any
    """Value of the file, not checked; None if it has none. `sentences` checks it."""
    questions: list[SquadQuestion | BadRow]

    def sentences(self) -> Iterator[tuple[int, int] | BadRow]:
        """The span [start, end) of each sentence; raises `BadRowError` if `sentence_breaks` is not a list."""
        if not isinstance(self.sentence_breaks, list):
            raise BadRowError(self.where, "sentence_breaks is not a list; LAReQA's files have one in each paragraph")
        length = len(self.context)
        for number, span in enumerate(self.sentence_breaks):
            match span:
                case [int(start), int(end)] if 0 <= start < end <= length:
                    yield start, end
                case _:
                    reason = (
                        f"{reprlib.repr(span)} is not a [start, end) span of the {length} characters of the context"
                    )
                    yield BadRow(f"{self.where}.sentence_breaks[{number}]", reason)

    def answer_sentence(self, question: SquadQuestion) -> tuple[int, int]:
        """The span of the sentence in which the first answer starts; raises `BadRowError` if there is none.

        An answer may run over the end of its sentence.
        """
        if question.answer_start is None:
            reason = "no answer_start of a first answer, so no sentence is the right one"
            raise BadRowError(question.where, reason)
        spans = self.sentences() if isinstance(self.sentence_breaks, list) else ()
        for span in spans:
            if not isinstance(span, BadRow) and span[0] <= question.answer_start < span[1]:
                return span
        reason = "answer_start lies in none of the sentence_breaks, which count characters, not bytes"
        raise BadRowError(question.where, reason)


def read_squad(location: str) -> Iterator[SquadParagraph | BadRow]:
    """The paragraphs of a file; `SourceError` if it is missing, is not JSON, or has no list `data`."""
    tree = read_json(location)
    try:
        articles = member(tree, "data", list, location)
    except BadRowError as error:
        raise SourceError(f"{location}: {error.reason}; SQuAD's JSON is needed", code="NOT_SQUAD") from None
    # Decides whether an empty list of answers means that there is no answer.
    is_version_2 = str(tree.get("version", "")).lower().startswith(("2", "v2"))

    def nodes(numbered: tuple[int, Any]) -> list[_JsonNode]:
        number, article = numbered
        where = f"{location}: data[{number}]"
        paragraphs = enumerate(member(article, "paragraphs", list, where))
        return [_JsonNode(f"{where}.paragraphs[{p}]", f"{number}.{p}", node, is_version_2) for p, node in paragraphs]

    for paragraphs in parse_rows(nodes, enumerate(articles)):
        if isinstance(paragraphs, BadRow):
            yield paragraphs
        else:
            yield from parse_rows(_paragraph, paragraphs)


class _JsonNode(NamedTuple):
    """A node of the document with its place: the single argument of a parser for `parse_rows`."""

    where: str
    key: str
    content: Any
    is_version_2: bool


def _paragraph(node: _JsonNode) -> SquadParagraph:
    where, key, content, is_version_2 = node
    context, qas = member(content, "context", str, where), member(content, "qas", list, where)
    questions = [_JsonNode(f"{where}.qas[{q}]", key, qa, is_version_2) for q, qa in enumerate(qas)]
    # `parse_rows` keeps bad questions in their place, so that the good ones are still read.
    return SquadParagraph(where, key, context, content.get("sentence_breaks"), list(parse_rows(_question, questions)))


def _question(node: _JsonNode) -> SquadQuestion:
    where, _, qa, is_version_2 = node
    if _is_unanswerable(qa, is_version_2):
        raise BadRowError(where, UNANSWERABLE)
    question_id, text = member(qa, "id", str, where), member(qa, "question", str, where)
    # SQuAD lists several annotators' answers; the first one is used.
    first = answers[0] if isinstance(answers := qa.get("answers"), list) and answers else {}
    answer, start = (first.get("text"), first.get("answer_start")) if isinstance(first, dict) else (None, None)
    # `bool` is a subclass of `int`.
    has_start = isinstance(start, int) and not isinstance(start, bool)
    return SquadQuestion(
        where, question_id, text, answer if isinstance(answer, str) else "", start if has_start else None
    )


def _is_unanswerable(qa: Any, is_version_2: bool) -> bool:
    """Whether SQuAD 2.0 marks the question as unanswerable from its paragraph.

    Some translations of SQuAD 2.0 drop `is_impossible`; in those, an empty list of answers means the same.
    """
    if not isinstance(qa, dict):
        return False
    if is_marked_unanswerable(qa.get("is_impossible")):
        return True
    return qa.get("answers") == [] and (is_version_2 or "plausible_answers" in qa) and "is_impossible" not in qa
