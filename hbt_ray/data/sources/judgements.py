"""Judgements: which document answers which question; with both corpora they make rows.

A judgement is one line, in TREC's four columns (`question-id Q0 document-id relevance`) or in a format's own.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import NamedTuple

from hbt_ray.data.sources.corpus import Entry, pick
from hbt_ray.data.sources.files import Line
from hbt_ray.data.sources.rows import BadRow, Row


class Judgement(NamedTuple):
    where: str
    question_id: str
    document_id: str
    relevance: float = 1

    @property
    def relevant(self) -> bool:
        return self.relevance > 0


def judgement(line: Line, question_id: str, document_id: str, relevance: str) -> Judgement | BadRow:
    """Relevant is what is judged 1 or more."""
    try:
        return Judgement(line.where, question_id, document_id, float(relevance))
    except ValueError:
        return BadRow(line.where, "relevance is no number")


def trec(lines: Iterable[Line | BadRow]) -> Iterator[Judgement | BadRow]:
    """TREC qrels, separated by tabs or spaces."""
    for line in lines:
        if isinstance(line, BadRow):
            yield line
            continue
        match line.text.split():
            case [question_id, _, document_id, relevance]:
                yield judgement(line, question_id, document_id, relevance)
            case _:
                yield BadRow(line.where, "not the four columns of TREC qrels: question id, Q0, document id, relevance")


def positives(judgements: Iterable[Judgement | BadRow]) -> Generator[BadRow, None, list[Judgement]]:
    """Return the judgements that say yes; what cannot be read is yielded."""
    found = []
    for one in judgements:
        if isinstance(one, BadRow):
            yield one
        elif one.relevant:
            found.append(one)
    return found


def join(
    judgements: Sequence[Judgement],
    questions: Iterable[Entry | BadRow],
    documents: Iterable[Entry | BadRow],
    language: str,
    prefix: str = "",
) -> Iterator[Row | BadRow]:
    """One row a judgement; its item is `<prefix><question id>/<document id>`.

    Both corpora are read once; the judgements and what they name of the corpora are held in memory.
    """
    question_texts = yield from pick(questions, {one.question_id for one in judgements})
    document_texts = yield from pick(documents, {one.document_id for one in judgements})
    for one in judgements:
        if one.question_id not in question_texts:
            yield BadRow(one.where, "the judged question is not among the questions")
        elif one.document_id not in document_texts:
            yield BadRow(one.where, "the judged document is not in the corpus")
        else:
            yield Row(
                item_id=f"{prefix}{one.question_id}/{one.document_id}",
                language=language,
                question=question_texts[one.question_id],
                passage=document_texts[one.document_id],
                passage_id=f"{prefix}{one.document_id}",
                question_id=f"{prefix}{one.question_id}",
                where=one.where,
            )
