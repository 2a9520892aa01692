"""Bitext: sentences with their translations, in pairs of languages; each pair is searched by itself.

Other than in a `Task`, a sentence has one answer among the sentences of its own pair: the one of the same row. So the
thousand English sentences of Tatoeba's Afrikaans pair are never candidates for a German sentence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from hbt_ray.data.formats.files import lines
from hbt_ray.errors import TaskError
from hbt_ray.retrieval.tasks.task import rows_digest, with_nul
from hbt_ray.retrieval.tasks.validation import sound
from hbt_ray.storage import valid_name

SENTENCES = pa.schema([(name, pa.string()) for name in ("language", "text")])


class LanguagePair(NamedTuple):
    """Two languages with as many sentences each; row by row these are translations."""

    source: str
    target: str
    source_rows: range
    """Of `BitextTask.sentences`."""
    target_rows: range


@dataclass(frozen=True, eq=False)
class BitextTask:
    """Sentences to encode once, and the pairs of languages to judge them in.

    Raises:
        InputError: its name cannot be that of a folder.
        TaskError: no pairs, a pair of sides that differ in length or are empty, a pair twice, or an empty sentence.
    """

    name: str
    sentences: pa.Table
    """Columns language, text."""
    pairs: Sequence[LanguagePair]
    both_ways: bool
    """Whether the targets ask for the sources as well."""
    measures: ClassVar[tuple[str, ...]] = ("R@1", "MarginR@1")
    """Accuracy by the nearest neighbour, and by the ratio margin."""

    def __post_init__(self) -> None:
        valid_name(self.name, "task")
        if not self.pairs:
            raise TaskError(f"task {self.name}: there is no pair of languages to search in; give two languages or more")
        for pair in self.pairs:
            if not len(pair.source_rows) == len(pair.target_rows) > 0:
                raise TaskError(
                    f"task {self.name}: {len(pair.source_rows)} sentences in {pair.source!r} for "
                    f"{len(pair.target_rows)} in {pair.target!r}; line by line they must be translations"
                )
        languages = [frozenset(pair[:2]) for pair in self.pairs]
        if len(set(languages)) < len(languages) or min(map(len, languages)) < 2:
            raise TaskError(f"task {self.name}: a pair of languages stands twice, or is one language")
        empty = pc.or_(pc.equal(pc.binary_length(self.sentences["text"]), 0), pc.utf8_is_space(self.sentences["text"]))
        if pc.any(empty).as_py():
            language = self.sentences["language"].filter(empty)[0].as_py()
            raise TaskError(f"task {self.name}: a sentence in {language!r} is empty, so nothing can find it")
        if len(bad := with_nul(self.sentences, "text")):
            language = bad["language"][0].as_py()
            raise TaskError(f"task {self.name}: a sentence in {language!r} holds a NUL character", code="NUL")

    @cached_property
    def fingerprint(self) -> str:
        """Checksum of the pairs and their sentences; see `Task.fingerprint`."""
        parts = [str(self.both_ways)]
        for pair in sorted(self.pairs, key=lambda pair: pair[:2]):
            texts = [
                self.sentences["text"].slice(rows.start, len(rows)) for rows in (pair.source_rows, pair.target_rows)
            ]
            parts += [pair.source, pair.target, str(rows_digest(pa.table(texts, names=["source", "target"])))]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]

    @property
    def languages(self) -> list[str]:
        """All languages, sorted."""
        return sorted({language for pair in self.pairs for language in pair[:2]})


def with_english(name: str, pairs: Mapping[str, tuple[Sequence[str], Sequence[str]]], both_ways: bool) -> BitextTask:
    """Language → its sentences and their English translations: each pair has English sentences of its own."""
    sides = [side for tag, (own, english) in pairs.items() for side in ((tag, own), ("en", english))]
    rows = _stacked(sides)
    made = [LanguagePair(tag, "en", rows[2 * at], rows[2 * at + 1]) for at, tag in enumerate(pairs)]
    return BitextTask(name, _table(sides), made, both_ways)


def multiway(name: str, sides: Mapping[str, Sequence[str]], pivot: str | None) -> BitextTask:
    """Language → sentences, all in one order: every two languages are a pair, or each with `pivot` alone."""
    rows = dict(zip(sides, _stacked(sides.items()), strict=True))
    tags = list(sides)
    pairs = [
        LanguagePair(source, target, rows[source], rows[target])
        for at, target in enumerate(tags)
        for source in (tags[:at] if pivot is None else tags)
        if source != target and pivot in (None, target)
    ]
    return BitextTask(name, _table(sides.items()), pairs, both_ways=True)


def lines_of(file: str) -> list[str]:
    """The sentences of a text file, one a line.

    Raises:
        TaskError: a blank line, after which the lines would not be those of the translation.
    """
    found = list(sound(lines(file)))
    for number, line in enumerate(found, start=1):
        if line.where != f"{file}:{number}":
            raise TaskError(f"{file}:{number}: a blank line, so that it is unclear what translates what")
    return [line.text for line in found]


def _stacked(sides: Iterable[tuple[str, Sequence[str]]]) -> list[range]:
    ranges, start = [], 0
    for _, sentences in sides:
        ranges.append(range(start, start + len(sentences)))
        start += len(sentences)
    return ranges


def _table(sides: Iterable[tuple[str, Sequence[str]]]) -> pa.Table:
    batches = [pa.record_batch([[tag] * len(texts), list(texts)], schema=SENTENCES) for tag, texts in sides]
    return pa.Table.from_batches(batches, SENTENCES)
