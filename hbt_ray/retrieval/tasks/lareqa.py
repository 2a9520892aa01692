"""The reader of LAReQA folders: XQuAD-R and MLQA-R (Roy et al. 2020, arXiv 2004.05484).

One `<language>.json` a language, in SQuAD's shape, where each paragraph also has `sentence_breaks`: the [start, end)
character spans of its sentences. Every sentence of every paragraph is a candidate; a question is answered by the
sentence in which its first answer starts, in every language that has a question of the same id. An answer may run over
the end of its sentence (2 to 20 of 1,190 do, by language): where it starts decides.
"""

from __future__ import annotations

import reprlib
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from hbt_ray.errors import TaskError
from hbt_ray.retrieval.tasks.config import Measure, TaskConfig
from hbt_ray.retrieval.tasks.task import Task
from hbt_ray.retrieval.tasks.validation import by_tag, json_of, tag_of, value

T = TypeVar("T")


class LareqaTaskConfig(TaskConfig):
    """A folder in the format of LAReQA. Its name is the kind."""

    kind: Literal["xquad-r", "mlqa-r", "lareqa"]
    path: Path
    measures: tuple[Measure, ...] = ()

    def open(self) -> Task:
        return read_lareqa(self.path, self.name or self.kind, self.languages, self.measures)


def read_lareqa(folder: Path, name: str, languages: Collection[str] = (), measures: tuple[str, ...] = ()) -> Task:
    """The task of a LAReQA folder; with `languages` only these, as corpus, as questions and as answers.

    Document ids are `<language>_<paragraph>_<sentence>`, counted from 0 within the file; query ids
    `<language>_<question id>`.

    Raises:
        TaskError: no folder, no files, a language without a file, a file name that is no language tag, or a file that
            is not of the shape; the message names the file and the path inside the JSON.
    """
    read = [_read_file(path, tag) for tag, path in sorted(_files(folder, languages).items())]
    answers: dict[str, list[str]] = defaultdict(list)
    for language in read:
        for question_id, doc_id in language.answers.items():
            answers[question_id].append(doc_id)
    return Task.from_rows(
        name,
        documents=[row for language in read for row in language.documents],
        queries=[row for language in read for row in language.queries],
        qrels=[
            (f"{language.tag}_{question_id}", doc_id)
            for language in read
            for question_id in language.answers
            for doc_id in answers[question_id]
        ],
        measures=measures,
    )


@dataclass(frozen=True)
class _Language:
    tag: str
    documents: list[tuple[str, str, str]] = field(default_factory=list)
    queries: list[tuple[str, str, str]] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    """Question id → document id."""


def _files(folder: Path, languages: Collection[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise TaskError(f"{folder}: no such folder; give the folder that holds <language>.json, for example xquad-r/")
    files = {path.stem: path for path in sorted(folder.glob("*.json")) if not path.name.startswith(".")}
    found = {tag: files[code] for tag, code in by_tag(files, str(folder)).items()}
    if not found:
        raise TaskError(f"{folder}: holds no <language>.json; download the files of xquad-r/ or mlqa-r/ into it")
    wanted = {tag_of(language, f"{folder}: languages") for language in languages} or set(found)
    if missing := sorted(wanted - set(found)):
        raise TaskError(f"{folder}: has no {missing[0]}.json; its languages are {', '.join(sorted(found))}")
    return {tag: found[tag] for tag in wanted}


def _read_file(path: Path, tag: str) -> _Language:
    language = _Language(tag)
    for number, (at, paragraph) in enumerate(_paragraphs(json_of(path), str(path))):
        _read_paragraph(language, number, paragraph, at)
    if not language.documents:
        raise TaskError(f"{path}: holds no paragraphs; download the file again")
    return language


def _paragraphs(content: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every paragraph with its place in the file."""
    for a, article in enumerate(_get(content, "data", list, path)):
        for p, paragraph in enumerate(_get(article, "paragraphs", list, f"{path}: data[{a}]")):
            yield f"{path}: data[{a}].paragraphs[{p}]", paragraph


def _read_paragraph(language: _Language, number: int, paragraph: Any, at: str) -> None:
    context = _get(paragraph, "context", str, at)
    spans = [
        _span(span, context, f"{at}.sentence_breaks[{s}]")
        for s, span in enumerate(_get(paragraph, "sentence_breaks", list, at))
    ]
    ids = [f"{language.tag}_{number}_{s}" for s in range(len(spans))]
    for doc_id, (start, end) in zip(ids, spans, strict=True):
        language.documents.append((doc_id, language.tag, context[start:end]))
    for q, question in enumerate(_get(paragraph, "qas", list, at)):
        where = f"{at}.qas[{q}]"
        question_id = _get(question, "id", str, where)
        if question_id in language.answers:
            raise TaskError(f"{where}.id: {question_id!r} occurs twice in this file; question ids must be unique")
        language.queries.append((f"{language.tag}_{question_id}", language.tag, _get(question, "question", str, where)))
        language.answers[question_id] = ids[_sentence(question, spans, where)]


def _sentence(question: Any, spans: list[tuple[int, int]], at: str) -> int:
    """The number of the sentence in which the first answer starts."""
    answers = _get(question, "answers", list, at)
    if not answers:
        raise TaskError(f"{at}.answers: is empty, so no sentence is the right one; remove the question")
    start = _get(answers[0], "answer_start", int, f"{at}.answers[0]")
    for number, (first, end) in enumerate(spans):
        if first <= start < end:
            return number
    raise TaskError(
        f"{at}.answers[0].answer_start: {start} lies in none of the {len(spans)} sentences, so no sentence is the "
        "right one; offsets count characters (not bytes) of the context"
    )


def _span(span: Any, context: str, at: str) -> tuple[int, int]:
    match span:
        case [int(start), int(end)] if 0 <= start < end <= len(context):
            return start, end
    raise TaskError(
        f"{at}: {reprlib.repr(span)} is no [start, end) span within the context of {len(context)} characters"
    )


def _get(node: Any, key: str, kind: type[T], at: str) -> T:
    return value(node, key, kind, at, "a LAReQA file is SQuAD-shaped with sentence_breaks in each paragraph")
