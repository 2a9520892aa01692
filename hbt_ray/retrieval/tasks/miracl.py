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
from typing import Literal, NamedTuple

from pyarrow import fs

from hbt_ray.data.formats.corpus import Entry, documents, tab_separated
from hbt_ray.data.formats.files import JSON_LINES, PLAIN_OR_PACKED, explained, files_of
from hbt_ray.data.formats.qrels import Judgement, Threshold, judgement_of, judgements
from hbt_ray.data.formats.records import Record, jsonl, records, texts
from hbt_ray.data.formats.source_row import BadRow
from hbt_ray.errors import SourceError, TaskError
from hbt_ray.retrieval.tasks.config import Measure, TaskConfig, chosen
from hbt_ray.retrieval.tasks.qrels_task import Judged, judged_task
from hbt_ray.retrieval.tasks.task import Task
from hbt_ray.retrieval.tasks.validation import by_tag, sound
from hbt_ray.storage.location import Location, filesystem, join_location

_PREFIX = "miracl-v1.0-"
_PARTS = ("topics", "qrels")


class MiraclTaskConfig(TaskConfig):
    """MIRACL. Ids get their language in front; the name says the split and whether the corpus is pooled."""

    kind: Literal["miracl"]
    path: Location
    """Topics and qrels."""
    corpus: Location = ""
    """The folder that holds `miracl-corpus-v1.0-<language>`; default: that of the topics."""
    split: str = "dev"
    threshold: Threshold = None
    """Relevance from which a passage is right, for judgements with fractions; see `BeirTask`."""
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
        return judged_task(self.name or own, parts, self.measures, threshold=self.threshold, pooled=self.pooled)

    def _has_tables(self) -> bool:
        return "topics.parquet" in _names(self.path, fs.FileType.File)

    def _part(self, tag: str, asked: _Asked) -> Judged:
        corpus = join_location(self.corpus or self.path, f"miracl-corpus-v1.0-{asked.code}")
        try:
            files = files_of(corpus, lambda name: name.endswith(JSON_LINES))
        except SourceError as error:
            raise TaskError(
                f"{error}; download it from miracl/miracl-corpus, say with corpus= where the corpora are, or keep only "
                "the languages that have one with languages="
            ) from None
        passages = documents(record for file in files for record in jsonl(file))
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
        code = name.removeprefix(_PREFIX)
        topics, qrels = (
            _file(join_location(folder, f"{name}/{part}"), f"{part}.{name}-{split}.tsv") for part in _PARTS
        )
        if topics and not qrels:
            raise SourceError(f"{folder}/{name}: has topics of the split {split!r} and no judgements, {_PARTS[1]}/…")
        if topics:
            found[code] = _Asked(code, tab_separated(topics), judgements(qrels))
    return {tag: found[code] for tag, code in by_tag(found, folder).items()}


def _file(folder: str, file: str) -> str:
    """The file, plain or packed; empty where there is none."""
    there = _names(folder, fs.FileType.File)
    return next(
        (join_location(folder, f"{file}{packed}") for packed in PLAIN_OR_PACKED if f"{file}{packed}" in there), ""
    )


def _from_tables(folder: str, split: str) -> dict[str, _Asked]:
    topics: dict[str, list[Entry]] = defaultdict(list)
    for record, row in _rows(join_location(folder, "topics.parquet"), split, ("qid", "query")):
        topics[row["lang"]].append(Entry(record.where, row["qid"], row["query"]))
    qrels: dict[str, list[Judgement | BadRow]] = defaultdict(list)
    columns = {"question_id": "qid", "document_id": "docid", "relevance": "relevance"}
    for record, row in _rows(join_location(folder, "qrels.parquet"), split, ("qid", "docid"), ("relevance",)):
        qrels[row["lang"]].append(judgement_of(record, columns))
    return {tag: _Asked(code, topics[code], qrels[code]) for tag, code in by_tag(topics, folder).items()}


def _rows(
    table: str, split: str, columns: tuple[str, ...], numbers: tuple[str, ...] = ()
) -> Iterator[tuple[Record, dict[str, str]]]:
    """The rows of a split with the text of their columns; ids may be whole numbers."""
    names = ("lang", "split", *columns)
    for record in sound(records(table, {*names, *numbers})):
        if missing := [column for column, value in record.values.items() if value is None]:
            raise TaskError(f"{record.where}: no {missing[0]!r}; every row needs a value in every column")
        row = next(sound([texts(record, {name: name for name in names}, numbers=("qid", "docid"))]))
        if row["split"] == split:
            yield record, row
