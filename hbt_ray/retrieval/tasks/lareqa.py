"""LAReQA folders as tasks: XQuAD-R and MLQA-R (Roy et al. 2020, arXiv 2004.05484).

A folder has one `<language>.json` per language, in SQuAD's format with `sentence_breaks`. Every sentence of every
paragraph is a candidate. A question is answered by the sentence in which its first answer starts, in every language
that has a question with the same id. An answer may run past the end of its sentence (2 to 20 of 1,190 per language do).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from hbt_ray.data.formats.files import by_language, matching_files
from hbt_ray.data.formats.source_row import BadRowError, without_bad_rows
from hbt_ray.data.formats.squad import read_squad
from hbt_ray.errors import TaskError
from hbt_ray.retrieval.tasks.config import Measure, TaskConfig
from hbt_ray.retrieval.tasks.task import Task
from hbt_ray.storage.location import Location


class LareqaTaskConfig(TaskConfig):
    """A folder in the format of LAReQA. The default name of the task is its kind."""

    kind: Literal["xquad-r", "mlqa-r", "lareqa"]
    path: Location
    """Folder that holds `<language>.json`."""
    measures: tuple[Measure, ...] = ()
    """Measures to compute beside the default ones, and to show instead of them. Default: none."""

    def open(self) -> Task:
        return read_lareqa(self.path, self.name or self.kind, self.languages, self.measures)


def read_lareqa(folder: str | Path, name: str, languages: Collection[str] = (), measures: tuple[str, ...] = ()) -> Task:
    """The task of a LAReQA folder.

    Document ids are `<language>_<paragraph>_<sentence>`, counted from 0 within the file; query ids are
    `<language>_<question id>`.

    Args:
        languages: keep only the documents, queries and answers in these; empty means all.

    Raises:
        SourceError: a file is missing or malformed, or its name is not a language tag.
        TaskError: a file has no paragraphs, or see `Task`.
    """
    documents: list[tuple[str, str, str]] = []
    queries: list[tuple[str, str, str]] = []
    question_ids: dict[str, str] = {}  # query id → question id, which all languages share
    answers: dict[str, list[str]] = defaultdict(list)  # question id → document ids in all languages
    files = {file.removesuffix(".json"): path for file, path in matching_files(str(folder), "*.json").items()}
    for tag, path in by_language(files, languages, str(folder)).items():
        num_documents = len(documents)
        for number, paragraph in enumerate(without_bad_rows(read_squad(path))):
            doc_ids: dict[tuple[int, int], str] = {}
            for s, span in enumerate(without_bad_rows(paragraph.sentences())):
                documents.append((f"{tag}_{number}_{s}", tag, paragraph.context[slice(*span)]))
                # Spans may repeat; the first sentence of a span is then the answer.
                doc_ids.setdefault(span, documents[-1][0])
            for question in without_bad_rows(paragraph.questions):
                query_id = f"{tag}_{question.id}"
                if query_id in question_ids:
                    reason = f"question id {question.id!r} occurs twice in this file; question ids must be unique"
                    raise BadRowError(question.where, reason)
                question_ids[query_id] = question.id
                queries.append((query_id, tag, question.text))
                answers[question.id].append(doc_ids[paragraph.answer_sentence(question)])
        if len(documents) == num_documents:
            raise TaskError(f"{path}: holds no paragraphs; download the file again", code="NO_PARAGRAPHS")
    qrels = [(query, document) for query, question in question_ids.items() for document in answers[question]]
    return Task.from_rows(name, documents, queries, qrels, measures)
