"""MIRACL (Zhang et al. 2023): 18 languages, each with questions and a corpus of its own.

As published in miracl/miracl and miracl/miracl-corpus: `miracl-v1.0-<language>/topics/topics.miracl-v1.0-<language>-
<split>.tsv` (id, tab, question), `…/qrels/qrels.…tsv` in TREC's four columns, and
`miracl-corpus-v1.0-<language>/docs-*.jsonl.gz` with `{"docid", "title", "text"}`. Topics and qrels may also be two
tables, `topics.parquet` (lang, split, qid, query) and `qrels.parquet` (lang, split, qid, docid, relevance).

MIRACL's figure is the monolingual setting. In the pool of all languages nobody judged the passages of the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

from pyarrow import fs

from hbt_ray.data.sources.corpus import Entry, documents, tab_separated
from hbt_ray.data.sources.files import explained, files_of, lines
from hbt_ray.data.sources.judgements import Judgement, trec
from hbt_ray.data.sources.records import Record, jsonl, records
from hbt_ray.data.sources.rows import BadRow
from hbt_ray.data.store.location import Location, child, filesystem
from hbt_ray.errors import SourceError, TaskError
from hbt_ray.evaluate.tasks.judged import Judged, judged_task
from hbt_ray.evaluate.tasks.sound import sound, tag_of
from hbt_ray.evaluate.tasks.spec import Measure, TaskSpec, chosen
from hbt_ray.evaluate.tasks.task import Task

_PREFIX = "miracl-v1.0-"


class MiraclTask(TaskSpec):
    """MIRACL. Ids get their language in front; the name says the split and whether the corpus is pooled."""

    kind: Literal["miracl"]
    path: Location
    """Topics and qrels."""
    corpus: Location = ""
    """The folder that holds `miracl-corpus-v1.0-<language>`; default: that of the topics."""
    split: str = "dev"
    pooled: bool = False
    """Search only the passages that some question of the split was judged with, relevant or not: a small corpus, in
    which everything is easier to find, so its figures compare with nothing but themselves."""
    measures: tuple[Measure, ...] = ("nDCG@10", "R@100")

    def open(self) -> Task:
        asked = _from_tables(self.path, self.split) if self._has_tables() else _from_folders(self.path, self.split)
        where = f"{self.path} (split={self.split})"
        parts = [self._part(tag, asked[tag]) for tag in chosen(self.languages, asked, where)]
        if not parts:
            raise TaskError(f"{where}: holds neither {_PREFIX}<language>/topics of this split nor topics.parquet")
        own = "-".join(
            [self.kind, *(["pooled"] if self.pooled else []), *([] if self.split == "dev" else [self.split])]
        )
        return judged_task(self.name or own, parts, self.measures, pooled=self.pooled)

    def _has_tables(self) -> bool:
        return "topics.parquet" in _names(self.path, fs.FileType.File)

    def _part(self, tag: str, asked: _Asked) -> Judged:
        corpus = child(self.corpus or self.path, f"miracl-corpus-v1.0-{asked.code}")
        try:
            files = files_of(corpus, lambda name: name.endswith((".jsonl", ".jsonl.gz")))
        except SourceError as error:
            raise TaskError(
                f"{error}; download it from miracl/miracl-corpus, say with corpus= where the corpora are, or keep only "
                "the languages that have one with languages="
            ) from None
        passages = documents((record for file in files for record in jsonl(file)), "docid")
        return Judged(tag, passages, asked.topics, asked.qrels, prefix=f"{tag}_")


class _Asked(NamedTuple):
    """The questions of one language."""

    code: str
    """How the files spell it."""
    topics: Iterable[Entry | BadRow]
    qrels: Iterable[Judgement | BadRow]


def _names(folder: str, kind: fs.FileType) -> list[str]:
    with explained(folder):
        system, path = filesystem(folder)
        return sorted(info.base_name for info in system.get_file_info(fs.FileSelector(path)) if info.type == kind)


def _from_folders(folder: str, split: str) -> dict[str, _Asked]:
    found = {}
    for name in _names(folder, fs.FileType.Directory):
        if not name.startswith(_PREFIX):
            continue
        topics, qrels = (child(folder, f"{name}/{part}/{part}.{name}-{split}.tsv") for part in ("topics", "qrels"))
        if topics.rpartition("/")[2] in _names(child(folder, f"{name}/topics"), fs.FileType.File):
            code = name.removeprefix(_PREFIX)
            found[tag_of(code, folder)] = _Asked(code, tab_separated(topics), trec(lines(qrels)))
    return found


def _from_tables(folder: str, split: str) -> dict[str, _Asked]:
    topics: dict[str, list[Entry]] = defaultdict(list)
    for record, row in _rows(child(folder, "topics.parquet"), split, ("qid", "query")):
        topics[row["lang"]].append(Entry(record.where, row["qid"], row["query"]))
    qrels: dict[str, list[Judgement]] = defaultdict(list)
    for record, row in _rows(child(folder, "qrels.parquet"), split, ("qid", "docid", "relevance")):
        qrels[row["lang"]].append(Judgement(record.where, row["qid"], row["docid"], row["relevance"]))
    return {tag_of(code, folder): _Asked(code, entries, qrels[code]) for code, entries in topics.items()}


def _rows(table: str, split: str, columns: tuple[str, ...]) -> Iterator[tuple[Record, dict[str, Any]]]:
    for record in sound(records(table, {"lang", "split", *columns})):
        if missing := [column for column, value in record.values.items() if value is None]:
            raise TaskError(f"{record.where}: no {missing[0]!r}; every row needs a value in every column")
        if record.values["split"] == split:
            yield record, record.values
